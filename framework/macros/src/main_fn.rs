//! `#[afflux::main]`: an async main that ends with an exit code.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::{ItemFn, Path, ReturnType};

use crate::args;
use crate::errors::Errors;

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let mut krate: Path = args::default_crate();
    let mut seen = Vec::new();
    let parser = syn::meta::parser(|meta| {
        args::option("main", &["crate"], &mut seen, &meta, &mut |_, meta| {
            krate = args::crate_path(meta)?;
            Ok(())
        })
    });
    parser.parse2(options)?;
    let function: ItemFn = syn::parse2(item.clone()).map_err(|_| {
        syn::Error::new_spanned(
            &item,
            "`#[afflux::main]` stands above `async fn main() -> afflux::Result<()>`",
        )
    })?;
    let mut errors = Errors::default();
    let sig = &function.sig;
    if sig.asyncness.is_none() {
        errors.at(sig.fn_token, "`main` is `async` here: write `async fn main() -> afflux::Result<()>`");
    }
    if sig.ident != "main" {
        errors.at(&sig.ident, format!("`#[afflux::main]` is for `main`, not `{}`", sig.ident));
    }
    if !sig.inputs.is_empty() {
        errors.at(&sig.inputs, "`main` has no parameters: the command line is read by `App::run`");
    }
    if !sig.generics.params.is_empty() {
        errors.at(&sig.generics, "`main` has no type parameters");
    }
    if matches!(sig.output, ReturnType::Default) {
        errors.at(&sig.ident, "`main` says how it ended: write `async fn main() -> afflux::Result<()>`, with `Ok(())` at its end");
    }
    if let Err(error) = errors.finish() {
        // With a `main` of sorts, so that the compiler does not also miss one.
        let error = error.to_compile_error();
        let stub = (sig.ident == "main").then(|| {
            quote!(
                fn main() {}
            )
        });
        return Ok(quote!(#error #stub));
    }
    let (attrs, vis, body, output) = (&function.attrs, &function.vis, &function.block, &sig.output);
    let name = &sig.ident;
    Ok(quote! {
        #(#attrs)*
        #vis fn #name() -> ::std::process::ExitCode {
            async fn body() #output #body
            #krate::__private::run_main(body())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(item: TokenStream) -> String {
        match expand(quote!(), item) {
            Ok(tokens) => tokens.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn main_becomes_a_function_that_returns_an_exit_code() {
        let text = expand(
            quote!(),
            quote!(
                async fn main() -> afflux::Result<()> {
                    Ok(())
                }
            ),
        )
        .unwrap()
        .to_string();
        assert!(text.starts_with("fn main () -> :: std :: process :: ExitCode"), "{text}");
        assert!(text.contains(":: afflux :: __private :: run_main (body ())"), "{text}");
    }

    #[test]
    fn a_wrong_main_is_told_how_to_write_it() {
        let text = error_of(quote!(
            fn main(a: u8) {}
        ));
        for part in ["`main` is `async` here", "no parameters", "says how it ended"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(
            error_of(quote!(
                struct S;
            ))
            .contains("stands above")
        );
        assert!(
            expand(
                quote!(treads = 4),
                quote!(
                    async fn main() -> R {}
                )
            )
            .unwrap_err()
            .to_string()
            .contains("no option `treads`")
        );
    }
}
