//! `derive(Event)`: which field says when a record happened.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Field, Fields, Member, Path, Type};

use crate::args;
use crate::errors::Errors;

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let mut krate: Path = args::default_crate();
    args::read(&input.attrs, "event", &["crate"], |_, meta| {
        krate = args::crate_path(meta)?;
        Ok(())
    })?;
    let mut errors = Errors::default();
    let arms: Vec<TokenStream> = match &input.data {
        Data::Struct(data) => {
            let field = errors.take(time_field(ident, &data.fields));
            field.map(|field| arm(quote!(Self), field)).into_iter().collect()
        }
        Data::Enum(data) => {
            let fields = data.variants.iter().filter_map(|variant| {
                let name = &variant.ident;
                errors.take(time_field(name, &variant.fields)).map(|field| arm(quote!(Self::#name), field))
            });
            fields.collect()
        }
        Data::Union(data) => {
            errors.at(data.union_token, "an event is a struct or an enum");
            Vec::new()
        }
    };
    errors.finish()?;
    let subject = if arms.is_empty() { quote!(*self) } else { quote!(self) };
    let (generics, types, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        impl #generics #krate::stream::Event for #ident #types #bounds {
            #[inline]
            fn event_time(&self) -> #krate::stream::Timestamp {
                match #subject { #(#arms),* }
            }
        }
    })
}

/// The pattern that finds the field; the use of the time has the span of its type, so that a
/// wrong type is shown there.
fn arm(path: TokenStream, (member, ty): (Member, &Type)) -> TokenStream {
    let time = quote_spanned!(ty.span()=> *time);
    quote!(#path { #member: time, .. } => #time)
}

/// The one field with `#[event(time)]`.
fn time_field<'a>(owner: &syn::Ident, fields: &'a Fields) -> syn::Result<(Member, &'a Type)> {
    let mut errors = Errors::default();
    let mut found: Option<(Member, &Field)> = None;
    for (field, member) in fields.iter().zip(fields.members()) {
        let mut time = false;
        let read = args::read(&field.attrs, "event", &["time"], |name, meta| {
            time = true;
            args::flag(meta, name)
        });
        errors.take(read);
        if !time {
            continue;
        }
        if let Some((first, _)) = &found {
            errors.at(
                field,
                format!(
                    "`{owner}` has two event times, `{}` and `{}`: leave `#[event(time)]` on one",
                    args::text_of(first),
                    args::text_of(&member)
                ),
            );
        } else {
            found = Some((member, field));
        }
    }
    errors.finish()?;
    let Some((member, field)) = found else {
        let candidate = fields
            .iter()
            .zip(fields.members())
            .find(|(f, _)| last_word(&f.ty).as_deref() == Some("Timestamp"));
        let cure = match candidate {
            Some((_, member)) => format!("put `#[event(time)]` above `{}`", args::text_of(member)),
            None => "add a field `#[event(time)] at: Timestamp`".to_owned(),
        };
        return Err(syn::Error::new_spanned(
            owner,
            format!("`{owner}` does not say when it happened: {cure}"),
        ));
    };
    if let Some(cure) = wrong_type(&field.ty) {
        return Err(syn::Error::new_spanned(
            &field.ty,
            format!(
                "the event time `{}` is a `Timestamp`, not `{}`: {cure}",
                args::text_of(&member),
                args::text_of(&field.ty)
            ),
        ));
    }
    Ok((member, &field.ty))
}

fn last_word(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
        _ => None,
    }
}

/// The cure, for types that are surely wrong; others are left to the compiler.
fn wrong_type(ty: &Type) -> Option<&'static str> {
    match last_word(ty)?.as_str() {
        "Option" => Some(
            "every record has a time; give those without one a time, or drop them, before the source yields them",
        ),
        "String" => Some("parse it where the record is made"),
        "i64" | "u64" | "i32" | "u32" | "i128" | "u128" | "usize" | "isize" | "f64" | "f32" => Some(
            "a number does not say its unit; a `Timestamp` is read and written as milliseconds since 1970",
        ),
        "SystemTime" | "Instant" | "DateTime" | "Zoned" => {
            Some("turn it into a `Timestamp` where the record is made")
        }
        _ => None,
    }
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
    fn the_marked_field_is_the_event_time() {
        let text = expand(syn::parse_quote! { struct F { a: u8, #[event(time)] at: Timestamp } })
            .unwrap()
            .to_string();
        assert!(text.contains("Self { at : time , .. } => * time"), "{text}");
        let text =
            expand(syn::parse_quote! { struct F<T>(T, #[event(time)] Timestamp); }).unwrap().to_string();
        assert!(text.contains("Self { 1 : time , .. } => * time"), "{text}");
    }

    #[test]
    fn a_record_without_a_time_is_told_which_field_it_could_be() {
        let text = error_of(syn::parse_quote! { struct F { a: u8, at: Timestamp } });
        assert!(text.contains("put `#[event(time)]` above `at`"), "{text}");
        let text = error_of(syn::parse_quote! { struct F { a: u8 } });
        assert!(text.contains("add a field `#[event(time)] at: Timestamp`"), "{text}");
    }

    #[test]
    fn two_times_or_a_wrong_type_are_refused() {
        let text = error_of(
            syn::parse_quote! { struct F { #[event(time)] a: Timestamp, #[event(time)] b: Timestamp } },
        );
        assert!(text.contains("two event times, `a` and `b`"), "{text}");
        let text = error_of(syn::parse_quote! { struct F { #[event(time)] a: Option<Timestamp> } });
        assert!(text.contains("is a `Timestamp`, not `Option<Timestamp>`"), "{text}");
        let text = error_of(syn::parse_quote! { struct F { #[event(tiem)] a: Timestamp } });
        assert!(text.contains("did you mean `time`?"), "{text}");
    }
}
