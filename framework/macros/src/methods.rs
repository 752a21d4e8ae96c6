//! The methods of a contract, read from the enum's variants.

use std::time::Duration;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Attribute, DataEnum, Field, Fields, Type, Variant};

use crate::args;
use crate::errors::Errors;
use crate::naming::{method_ident, snake};

/// The deadline of a method that names none.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// Words behind the contract's name that the derive needs for itself.
const RESERVED: &[&str] = &["Body", "Call", "Calls", "Client", "Handler", "Shared"];

/// One method.
pub(crate) struct Method {
    /// `Place`.
    pub(crate) variant: Ident,
    /// `place`.
    pub(crate) name: Ident,
    /// `OrdersPlace`.
    pub(crate) params: Ident,
    pub(crate) doc: String,
    pub(crate) fields: Vec<Param>,
    pub(crate) returns: Type,
    pub(crate) one_way: bool,
    /// The item that the caller sends.
    pub(crate) accepts: Option<Type>,
    /// The item that the service sends.
    pub(crate) streams: Option<Type>,
    pub(crate) idempotent: bool,
    pub(crate) readonly: bool,
    pub(crate) detached: bool,
    pub(crate) ack: bool,
    /// `High`, `Normal` or `Low`.
    pub(crate) priority: Ident,
    pub(crate) deadline: Duration,
    /// Who may call it, as it was written.
    pub(crate) allow: String,
    /// The parameter by which calls are routed.
    pub(crate) route: Option<Ident>,
    /// When a second attempt starts beside the first.
    pub(crate) hedge: Option<Hedge>,
}

/// When a call is hedged.
#[derive(Clone, Copy)]
pub(crate) enum Hedge {
    After(Duration),
    P95,
}

impl Method {
    /// Whether items travel in any direction.
    pub(crate) fn is_stream(&self) -> bool {
        self.accepts.is_some() || self.streams.is_some()
    }

    /// The variant of `MethodKind`.
    pub(crate) fn kind(&self) -> Ident {
        let kind = match (&self.accepts, &self.streams) {
            _ if self.one_way => "OneWay",
            (None, None) => "Unary",
            (None, Some(_)) => "ServerStream",
            (Some(_), None) => "ClientStream",
            (Some(_), Some(_)) => "Duplex",
        };
        format_ident!("{kind}")
    }

    /// The shape of a streaming method.
    pub(crate) fn shape(&self, contract: &TokenStream) -> Option<TokenStream> {
        let returns = &self.returns;
        match (&self.accepts, &self.streams) {
            (None, None) => None,
            (None, Some(out)) => Some(quote!(#contract::Streams<#out>)),
            (Some(item), None) => Some(quote!(#contract::Accepts<#item, #returns>)),
            (Some(item), Some(out)) => Some(quote!(#contract::Both<#item, #out>)),
        }
    }
}

/// One parameter.
pub(crate) struct Param {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    pub(crate) doc: String,
    /// `#[serde(…)]` and `#[schemars(…)]`, kept as they are.
    pub(crate) kept: Vec<Attribute>,
}

/// Reads every variant; all mistakes are reported, not only the first.
pub(crate) fn read(service: &Ident, data: &DataEnum) -> syn::Result<Vec<Method>> {
    let mut errors = Errors::default();
    let mut methods: Vec<Method> = Vec::with_capacity(data.variants.len());
    if data.variants.is_empty() {
        errors.at(
            service,
            format!(
                "`{service}` has no methods: each variant of the enum is one, such as `Get {{ id: u64 }}`"
            ),
        );
    }
    for variant in &data.variants {
        let Some(method) = errors.take(method(service, variant)) else {
            continue;
        };
        if let Some(twin) = methods.iter().find(|m| m.name == method.name) {
            errors.at(
                &variant.ident,
                format!(
                    "`{}` and `{}` are both the method `{}`: rename one",
                    twin.variant, method.variant, method.name
                ),
            );
        }
        methods.push(method);
    }
    errors.finish()?;
    Ok(methods)
}

fn method(service: &Ident, variant: &Variant) -> syn::Result<Method> {
    let mut errors = Errors::default();
    let ident = &variant.ident;
    if RESERVED.iter().any(|word| ident == word) {
        errors.at(ident, format!("a method `{ident}` would need the name `{service}{ident}`, which the derive writes for something else: rename the method"));
    }
    if let Some((_, value)) = &variant.discriminant {
        errors.at(value, format!("a method has no number of its own: remove `= {}`", args::text_of(value)));
    }
    let name = method_ident(&snake(&ident.to_string()), ident.span());
    if name.is_none() {
        errors.at(
            ident,
            format!(
                "`{ident}` cannot be a method: `{}` is a word of the language; rename it",
                snake(&ident.to_string())
            ),
        );
    }
    let mut method = Method {
        variant: ident.clone(),
        name: name.unwrap_or_else(|| ident.clone()),
        params: format_ident!("{service}{ident}"),
        doc: args::doc_of(&variant.attrs),
        fields: fields(ident, &variant.fields, &mut errors),
        returns: syn::parse_quote!(()),
        one_way: false,
        accepts: None,
        streams: None,
        idempotent: false,
        readonly: false,
        detached: false,
        ack: false,
        priority: format_ident!("Normal"),
        deadline: DEADLINE_DEFAULT,
        allow: String::new(),
        route: None,
        hedge: None,
    };
    let mut returns = None;
    const KNOWN: &[&str] = &[
        "returns",
        "deadline",
        "idempotent",
        "oneway",
        "allow",
        "streams",
        "accepts",
        "readonly",
        "priority",
        "detached",
        "ack",
        "route",
        "hedge",
    ];
    let options = args::read(&variant.attrs, "rpc", KNOWN, |name, meta| {
        match name {
            "returns" => returns = Some(args::ty(meta, name, "Receipt")?),
            "deadline" => method.deadline = args::duration(meta, name, "2s")?,
            "idempotent" => {
                args::flag(meta, name)?;
                method.idempotent = true;
            }
            "allow" => method.allow = allow(&args::text(meta, name, "support, node/billing-*")?)?,
            "oneway" => {
                args::flag(meta, name)?;
                method.one_way = true;
            }
            "readonly" => {
                args::flag(meta, name)?;
                (method.readonly, method.idempotent) = (true, true);
            }
            "detached" => {
                args::flag(meta, name)?;
                method.detached = true;
            }
            "ack" => {
                args::flag(meta, name)?;
                method.ack = true;
            }
            "priority" => {
                method.priority = match args::word(meta, name, &["high", "normal", "low"])?.as_str() {
                    "high" => format_ident!("High"),
                    "low" => format_ident!("Low"),
                    _ => format_ident!("Normal"),
                };
            }
            "route" => {
                let text = args::text(meta, name, "customer")?;
                let Some(field) = method.fields.iter().find(|field| field.name == text.value()) else {
                    return Err(syn::Error::new_spanned(
                        &text,
                        format!(
                            "`route` names a parameter of `{}`, and none is called {:?}",
                            ident,
                            text.value()
                        ),
                    ));
                };
                method.route = Some(field.name.clone());
            }
            "hedge" => {
                let text = args::text(meta, name, "p95")?;
                method.hedge = Some(match (text.value().as_str(), args::parse_duration(&text.value())) {
                    ("p95", _) => Hedge::P95,
                    (_, Some(after)) => Hedge::After(after),
                    _ => {
                        return Err(syn::Error::new_spanned(
                            &text,
                            format!(
                                "`hedge` wants \"p95\" or a length of time such as \"20ms\", got {:?}",
                                text.value()
                            ),
                        ));
                    }
                });
            }
            "streams" => method.streams = Some(args::ty(meta, name, "Event")?),
            _ => method.accepts = Some(args::ty(meta, name, "Line")?),
        }
        Ok(())
    });
    errors.take(options);
    if method.ack && !method.one_way {
        errors.at(ident, "only a one-way method is acknowledged when it is admitted: add `oneway`, or remove `ack`, since an answer says more");
    }
    if method.readonly && method.one_way {
        errors.at(ident, "a one-way method that changes nothing does nothing: remove `readonly` or `oneway`");
    }
    if method.hedge.is_some() && !method.idempotent {
        errors.at(
            ident,
            format!("a hedged call may run twice: mark `{ident}` as `idempotent`, or remove `hedge`"),
        );
    }
    if let Some(returns) = returns {
        if method.one_way {
            errors.at(
                &returns,
                format!(
                    "a one-way method answers nothing: remove `returns = {}` or `oneway`",
                    args::text_of(&returns)
                ),
            );
        }
        if method.streams.is_some() && !method.one_way {
            errors.at(
                &returns,
                format!(
                    "a method that streams answers with its items alone: remove `returns = {}`, or make it the last item",
                    args::text_of(&returns)
                ),
            );
        }
        method.returns = returns;
    }
    for (word, item) in [("streams", &method.streams), ("accepts", &method.accepts)] {
        if let Some(item) = item
            && method.one_way
        {
            errors.at(
                item,
                format!(
                    "a one-way method has no items: remove `{word} = {}` or `oneway`",
                    args::text_of(item)
                ),
            );
        }
    }
    errors.finish()?;
    Ok(method)
}

/// Roles and identities with commas between them.
fn allow(text: &syn::LitStr) -> syn::Result<String> {
    let value = text.value();
    let legal = |part: &str| {
        !part.is_empty()
            && part.split('/').count() <= 2
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '*'))
    };
    if value.split(',').all(|part| legal(part.trim())) {
        return Ok(value);
    }
    Err(syn::Error::new_spanned(
        text,
        format!(
            "`allow` wants roles and identities with commas between them, such as \"support, node/billing-*\", or \"authenticated\" or \"anyone\"; got {value:?}"
        ),
    ))
}

fn fields(method: &Ident, fields: &Fields, errors: &mut Errors) -> Vec<Param> {
    match fields {
        Fields::Unit => Vec::new(),
        Fields::Named(named) => named.named.iter().filter_map(|field| param(field, errors)).collect(),
        Fields::Unnamed(unnamed) => {
            let named: Vec<String> = unnamed
                .unnamed
                .iter()
                .enumerate()
                .map(|(i, field)| format!("{}: {}", example_name(&field.ty, i), args::text_of(&field.ty)))
                .collect();
            errors.push(syn::Error::new(
                unnamed.span(),
                format!(
                    "parameters have names, which travel on the wire: write `{method} {{ {} }}`",
                    named.join(", ")
                ),
            ));
            Vec::new()
        }
    }
}

/// A name for a parameter of this type, for the cure in a message.
fn example_name(ty: &Type, index: usize) -> String {
    match ty {
        Type::Path(path) => match path.path.segments.last() {
            Some(last) if last.ident.to_string().starts_with(char::is_uppercase) => {
                let name = snake(&last.ident.to_string());
                if syn::parse_str::<Ident>(&name).is_ok() { name } else { format!("p{index}") }
            }
            _ => format!("p{index}"),
        },
        _ => format!("p{index}"),
    }
}

fn param(field: &Field, errors: &mut Errors) -> Option<Param> {
    let name = field.ident.clone()?;
    if name == "cx" {
        errors.at(&name, "`cx` is the context that every handler gets: call the parameter something else");
    }
    if let Some(attr) = field.attrs.iter().find(|a| a.path().is_ident("rpc") || a.path().is_ident("service"))
    {
        errors.at(attr, "a parameter has no options of its own: `#[rpc(…)]` stands above the method");
    }
    if let Type::Reference(reference) = &field.ty {
        errors.at(
            reference,
            format!("a parameter is owned, since it may travel: `{}` cannot be a reference; use `String`, `Vec<T>` or the type itself", name),
        );
    }
    let kept = |a: &&Attribute| a.path().is_ident("serde") || a.path().is_ident("schemars");
    Some(Param {
        ty: field.ty.clone(),
        doc: args::doc_of(&field.attrs),
        kept: field.attrs.iter().filter(kept).cloned().collect(),
        name,
    })
}
