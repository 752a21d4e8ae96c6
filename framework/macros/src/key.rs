//! `derive(Key)`: the canonical encoding of a struct or an enum, field by field.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, Path, Type, parse_quote};

use crate::args;
use crate::errors::Errors;

pub(crate) fn expand(mut input: DeriveInput) -> syn::Result<TokenStream> {
    let mut krate: Path = args::default_crate();
    args::read(&input.attrs, "key", &["crate"], |_, meta| {
        krate = args::crate_path(meta)?;
        Ok(())
    })?;
    let key: Path = parse_quote!(#krate::stream::Key);
    let mut errors = Errors::default();
    let arms: Vec<TokenStream> = match &input.data {
        Data::Struct(data) => vec![arm(quote!(Self), &data.fields, None, &key, &mut errors)],
        Data::Enum(data) => {
            let each = data.variants.iter().zip(0_u32..).map(|(variant, index)| {
                let name = &variant.ident;
                arm(quote!(Self::#name), &variant.fields, Some(index), &key, &mut errors)
            });
            each.collect()
        }
        Data::Union(data) => {
            errors.at(data.union_token, "a key is a struct or an enum");
            Vec::new()
        }
    };
    errors.finish()?;
    let parameters: Vec<_> = input.generics.type_params().map(|p| p.ident.clone()).collect();
    for parameter in parameters {
        input.generics.make_where_clause().predicates.push(parse_quote!(#parameter: #key));
    }
    let ident = &input.ident;
    let subject = if arms.is_empty() { quote!(*self) } else { quote!(self) };
    let (generics, types, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        #[allow(unused_variables, clippy::all, clippy::pedantic, clippy::nursery)]
        impl #generics #key for #ident #types #bounds {
            #[inline]
            fn encode_key(&self, out: &mut #krate::stream::KeyBytes) {
                match #subject { #(#arms),* }
            }
        }
    })
}

fn arm(
    path: TokenStream,
    fields: &Fields,
    index: Option<u32>,
    key: &Path,
    errors: &mut Errors,
) -> TokenStream {
    let members: Vec<_> = fields.members().collect();
    let names: Vec<_> = (0..members.len()).map(|i| format_ident!("field{i}")).collect();
    let index = index.map(|index| quote!(out.put(&#index.to_le_bytes());));
    let encode = fields.iter().zip(&names).map(|(field, name)| {
        if let Some(cure) = wrong_type(&field.ty) {
            errors.at(&field.ty, cure);
        }
        if let Some(attr) = field.attrs.iter().find(|a| a.path().is_ident("key")) {
            errors.at(attr, "every field is part of the key: a field of a key has no options");
        }
        let ty = &field.ty;
        quote_spanned!(ty.span()=> <#ty as #key>::encode_key(#name, out);)
    });
    let encode: Vec<_> = encode.collect();
    quote!(#path { #(#members: #names),* } => { #index #(#encode)* })
}

/// Why a type is surely no key, and the cure; others are left to the compiler.
fn wrong_type(ty: &Type) -> Option<&'static str> {
    let Type::Path(path) = ty else {
        return match ty {
            Type::Reference(_) => {
                Some("a key is owned, since it is kept in the state: use `String` or the type itself")
            }
            _ => None,
        };
    };
    match path.path.segments.last()?.ident.to_string().as_str() {
        "f32" | "f64" => Some(
            "a float is no key, since equal values can have different bytes: use an integer, such as the value in its smallest unit",
        ),
        "HashMap" | "HashSet" => Some(
            "a hash map is no key, since its order changes: use a sorted `Vec`, or key by what identifies it",
        ),
        "usize" | "isize" => Some("the width of this type depends on the machine: use `u64` or `i64`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(input: DeriveInput) -> String {
        expand(input).expect_err("must be refused").to_string()
    }

    #[test]
    fn an_enum_writes_its_index_before_its_fields() {
        let text = expand(syn::parse_quote! { enum K { A, B(u8, String) } }).unwrap().to_string();
        assert!(text.contains("Self :: A { } => { out . put (& 0u32 . to_le_bytes ()) ; }"), "{text}");
        let b = text.split("Self :: B").nth(1).unwrap();
        let at = |part: &str| b.find(part).unwrap_or_else(|| panic!("{part} is missing in {b}"));
        assert!(
            at("1u32") < at(":: encode_key (field0")
                && at(":: encode_key (field0") < at(":: encode_key (field1")
        );
    }

    #[test]
    fn a_type_parameter_must_be_a_key() {
        let text = expand(syn::parse_quote! { struct K<T>(T); }).unwrap().to_string();
        assert!(text.contains("where T : :: afflux :: stream :: Key"), "{text}");
    }

    #[test]
    fn floats_and_machine_widths_are_refused_with_a_cure() {
        assert!(error_of(syn::parse_quote! { struct K { a: f64 } }).contains("use an integer"));
        assert!(error_of(syn::parse_quote! { struct K(usize); }).contains("use `u64`"));
        assert!(
            error_of(syn::parse_quote! { #[key(crat = "x")] struct K(u8); })
                .contains("did you mean `crate`?")
        );
    }
}
