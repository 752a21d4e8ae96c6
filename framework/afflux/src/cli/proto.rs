//! `schema proto`: a service as a `.proto` file, whose committed text keeps the numbers of fields.

use super::args::SchemaProtoArgs;
use crate::app::App;
use crate::error::{Error, Result};

#[cfg(not(feature = "grpc"))]
pub(crate) fn proto(_: &App, args: &SchemaProtoArgs) -> Result<()> {
    Err(Error::usage(format!(
        "{} cannot be written as a .proto file: this program speaks no gRPC",
        args.service
    ))
    .hint("build it with the feature `grpc` of afflux"))
}

#[cfg(feature = "grpc")]
pub(crate) fn proto(app: &App, args: &SchemaProtoArgs) -> Result<()> {
    use super::output::{print, print_line};
    use crate::error::suggest;
    use crate::grpc::{Numbers, map, print as text_of};

    let contracts = app.contracts();
    let names = contracts.iter().map(|service| service.name.as_str());
    let Some(info) = contracts.iter().find(|service| service.name == args.service) else {
        return Err(Error::usage(format!("this program has no service {}", args.service))
            .hint(suggest(&args.service, names)));
    };
    let known = match &args.write {
        Some(file) if file.exists() => {
            let shown = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .map_err(|error| Error::failed(format!("{shown}: cannot be read: {error}")))?;
            let (service, numbers) = Numbers::parse(&shown, &text)?;
            if service != info.name {
                return Err(Error::usage(format!("{shown} describes {service}, not {}", info.name))
                    .hint("one file a service"));
            }
            numbers
        }
        _ => Numbers::default(),
    };
    let mapped = map(info, &known);
    if !mapped.refused.is_empty() {
        let all: Vec<&str> = mapped.refused.values().map(String::as_str).collect();
        return Err(Error::failed(format!(
            "{} has methods without a counterpart:\n  {}",
            info.name,
            all.join("\n  ")
        )));
    }
    let text = text_of(&mapped.file, &info.name);
    match &args.write {
        None => print(&text),
        Some(file) => {
            std::fs::write(file, &text)
                .map_err(|error| Error::failed(format!("{}: cannot be written: {error}", file.display())))?;
            print_line(&format!("{}: {}", file.display(), info.name))
        }
    }
}
