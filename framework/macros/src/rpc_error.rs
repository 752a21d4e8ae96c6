//! `derive(RpcError)`: codes and retry hints of a service's typed error.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{Attribute, Data, DeriveInput, Path};

use crate::args;
use crate::errors::Errors;
use crate::naming::{nearest, suggestion};

/// gRPC's codes without OK, as `Code` names them.
const CODES: &[&str] = &[
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What `#[rpc(…)]` says of the type or of a variant.
#[derive(Default)]
struct Verdict {
    code: Option<Ident>,
    retry_after_ms: Option<u64>,
    krate: Option<Path>,
}

impl Verdict {
    fn read(attrs: &[Attribute], known: &[&str]) -> syn::Result<Self> {
        let mut verdict = Self::default();
        args::read(attrs, "rpc", known, |option, meta| {
            match option {
                "code" => verdict.code = Some(code(args::ident(meta, option, "NotFound")?)?),
                "retry_after_ms" => {
                    verdict.retry_after_ms =
                        Some(args::number(meta, option, "milliseconds", 50, 0..=86_400_000)?);
                }
                _ => verdict.krate = Some(args::crate_path(meta)?),
            }
            Ok(())
        })?;
        Ok(verdict)
    }
}

fn code(ident: Ident) -> syn::Result<Ident> {
    let name = ident.to_string();
    if CODES.contains(&name.as_str()) {
        return Ok(ident);
    }
    Err(syn::Error::new_spanned(&ident, format!("there is no code `{name}`: {}", suggestion(&name, CODES))))
}

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    if !input.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &input.generics,
            "a typed error has no type parameters: its type is fixed on the wire",
        ));
    }
    let whole = Verdict::read(&input.attrs, &["code", "retry_after_ms", "crate"])?;
    let krate = whole.krate.clone().unwrap_or_else(args::default_crate);
    let contract = quote!(#krate::contract);
    let mut errors = Errors::default();
    let (mut codes, mut kinds, mut retries) = (Vec::new(), Vec::new(), Vec::new());
    let mut arm = |pattern: TokenStream, name: &Ident, own: Verdict, errors: &mut Errors| {
        let Some(code) = own.code.or_else(|| whole.code.clone()) else {
            let example = nearest(&name.to_string(), CODES).unwrap_or("NotFound");
            let list = CODES.join(", ");
            errors.at(
                name,
                format!("`{name}` says no code: add `#[rpc(code = {example})]`; the codes are {list}"),
            );
            return;
        };
        let kind = name.to_string();
        codes.push(quote!(#pattern => #contract::Code::#code));
        kinds.push(quote!(#pattern => #kind));
        retries.push(match own.retry_after_ms.or(whole.retry_after_ms) {
            Some(ms) => quote!(#pattern => ::core::option::Option::Some(#ms)),
            None => quote!(#pattern => ::core::option::Option::None),
        });
    };
    match &input.data {
        Data::Struct(_) => arm(quote!(Self { .. }), ident, Verdict::default(), &mut errors),
        Data::Enum(data) => {
            for variant in &data.variants {
                if let Some(own) = errors.take(Verdict::read(&variant.attrs, &["code", "retry_after_ms"])) {
                    let name = &variant.ident;
                    arm(quote!(Self::#name { .. }), name, own, &mut errors);
                }
            }
        }
        Data::Union(data) => errors.at(data.union_token, "a typed error is an enum or a struct"),
    }
    errors.finish()?;
    // An enum without variants is matched by value: a reference is never empty.
    let subject = if codes.is_empty() { quote!(*self) } else { quote!(self) };
    Ok(quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        impl #contract::RpcError for #ident {
            fn code(&self) -> #contract::Code {
                match #subject { #(#codes),* }
            }
            fn kind(&self) -> &'static str {
                match #subject { #(#kinds),* }
            }
            fn retry_after_ms(&self) -> ::core::option::Option<u64> {
                match #subject { #(#retries),* }
            }
        }

        #[automatically_derived]
        impl ::core::convert::From<#ident> for #contract::Fault<#ident> {
            fn from(error: #ident) -> Self {
                #contract::Fault::Typed(error)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(input: DeriveInput) -> String {
        expand(input)
            .expect_err("must be refused")
            .into_iter()
            .map(|e| e.to_string())
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_wrong_code_names_the_nearest() {
        let text = error_of(
            syn::parse_quote! { enum E { #[rpc(code = NOT_FOUND)] A, #[rpc(code = "Internal")] B, C } },
        );
        for part in [
            "no code `NOT_FOUND`: did you mean `NotFound`?",
            "`code` wants a name: write `code = NotFound`",
            "`C` says no code",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_wrong_hint_says_what_it_wants() {
        let text =
            error_of(syn::parse_quote! { #[rpc(code = Aborted)] enum E { #[rpc(retry_after_ms = "50")] A } });
        assert!(
            text.contains("`retry_after_ms` wants a number of milliseconds such as 50, got `\"50\"`"),
            "{text}"
        );
    }

    #[test]
    fn a_code_on_the_type_holds_for_all_variants() {
        let text =
            expand(syn::parse_quote! { #[rpc(code = Aborted)] enum E { A, #[rpc(code = Internal)] B } })
                .unwrap()
                .to_string();
        assert!(text.contains("Self :: A { .. } => :: afflux :: contract :: Code :: Aborted"), "{text}");
        assert!(text.contains("Self :: B { .. } => :: afflux :: contract :: Code :: Internal"), "{text}");
    }
}
