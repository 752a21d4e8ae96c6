//! `derive(Operator)`: which fields of a struct are the state of a key.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Field, Fields, Ident, Index, Path, Type};

use crate::args;
use crate::errors::Errors;

/// State fields of one operator: as many as the runtime has tuples for.
const STATE_FIELDS_MAX: usize = 8;

struct StateField<'a> {
    ident: &'a Ident,
    ty: &'a Type,
    ttl_ms: i64,
}

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let mut errors = Errors::default();
    let mut krate: Path = args::default_crate();
    let (mut given, mut made, mut key) = (None::<Type>, None::<Type>, None::<Type>);
    let read = args::read(&input.attrs, "operator", &["input", "output", "key", "crate"], |name, meta| {
        match name {
            "input" => given = Some(args::ty(meta, name, "Reading")?),
            "output" => made = Some(args::ty(meta, name, "Alert")?),
            "key" => key = Some(args::ty(meta, name, "String")?),
            _ => krate = args::crate_path(meta)?,
        }
        Ok(())
    });
    errors.take(read);
    for (name, value, help) in [
        ("input", &given, "the type of the records that come in"),
        ("output", &made, "the type of the rows that go out"),
        ("key", &key, "the type that records are grouped by; `()` for all records together"),
    ] {
        if value.is_none() {
            errors
                .at(ident, format!("`{ident}` does not say its {name}: `#[operator({name} = …)]` is {help}"));
        }
    }
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        _ => {
            errors.at(ident, "an operator is a struct: its fields are its settings and its state");
            &Fields::Unit
        }
    };
    if let Fields::Unnamed(unnamed) = fields {
        errors.at(
            unnamed,
            "the fields of an operator have names: a state's name is its identity in checkpoints",
        );
    }
    let mut states = Vec::new();
    let mut plain = Vec::new();
    for field in fields {
        let Some(name) = &field.ident else { continue };
        match errors.take(state_of(field)) {
            Some(Some(ttl_ms)) => states.push(StateField { ident: name, ty: &field.ty, ttl_ms }),
            Some(None) => plain.push(name),
            None => {}
        }
    }
    if let Some(one_too_many) = states.get(STATE_FIELDS_MAX) {
        errors.at(
            one_too_many.ident,
            format!("an operator has at most {STATE_FIELDS_MAX} state fields: put values that belong together into one struct"),
        );
    }
    errors.finish()?;

    let types = states.iter().map(|state| {
        let (ty, ttl) = (state.ty, state.ttl_ms);
        quote_spanned!(ty.span()=> #krate::stream::Lasting<#ty, #ttl>)
    });
    let names = states.iter().map(|state| state.ident.to_string());
    let idents: Vec<_> = states.iter().map(|state| state.ident).collect();
    let places = (0..states.len()).map(Index::from);
    let states_type = if states.is_empty() { quote!(()) } else { quote!((#(#types,)*)) };
    let exchange = if states.is_empty() { format_ident!("_states") } else { format_ident!("states") };
    let (generics, params, bounds) = input.generics.split_for_impl();
    let check = input.generics.params.is_empty().then(|| {
        quote_spanned! {ident.span()=>
            const _: fn() = || {
                fn it_does_its_work<P: #krate::stream::Process>() {}
                it_does_its_work::<#ident>();
            };
        }
    });
    Ok(quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        impl #generics #krate::stream::OperatorSpec for #ident #params #bounds {
            type Input = #given;
            type Output = #made;
            type Key = #key;
            type States = #states_type;
            const STATES: &'static [&'static str] = &[#(#names),*];
            fn fresh(&self) -> Self {
                Self {
                    #(#plain: ::core::clone::Clone::clone(&self.#plain),)*
                    #(#idents: ::core::default::Default::default(),)*
                }
            }
            #[inline]
            fn exchange(&mut self, #exchange: &mut Self::States) {
                #(::core::mem::swap(&mut self.#idents, &mut states.#places.0);)*
            }
        }
        #check
    })
}

/// The time to live of a state field, 0 when it has none; nothing for a plain field.
fn state_of(field: &Field) -> syn::Result<Option<i64>> {
    if !field.attrs.iter().any(|attr| attr.path().is_ident("state")) {
        return Ok(None);
    }
    let mut ttl_ms = 0;
    // `#[state]` alone has no options to read.
    let with_options: Vec<_> =
        field.attrs.iter().filter(|attr| !matches!(attr.meta, syn::Meta::Path(_))).cloned().collect();
    args::read(&with_options, "state", &["ttl"], |name, meta| {
        let ttl = args::duration(meta, name, "1h")?;
        ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        Ok(())
    })?;
    Ok(Some(ttl_ms))
}
