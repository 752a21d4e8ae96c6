//! `derive(Actor)`: an actor whose mail is the calls of the contracts it serves.

use std::time::Duration;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, LitStr, Path, Token};

use crate::args;
use crate::errors::Errors;

/// What `#[actor(…)]` says.
struct Settings {
    krate: Path,
    serves: Vec<Path>,
    /// Statements that change the default `options`.
    changes: Vec<TokenStream>,
    /// How many handlers may overlap, where they do.
    concurrent: Option<u64>,
    /// Whether it acts at its beginning and end.
    lifecycle: bool,
    /// How many stand behind one name.
    instances: Option<u64>,
    /// The parameter that each has a value of.
    key: Option<LitStr>,
    /// How long one without calls is kept.
    idle: Option<Duration>,
    active_max: Option<u64>,
}

/// A mailbox larger than this hides a problem instead of solving it, and its memory is real.
const MAILBOX_MESSAGES_MAX: u64 = 1 << 24;
const RESTARTS_MAX: u64 = 1_000_000;
/// Kept answers lie in memory, each with its key.
const REPLIES_MAX: u64 = 1 << 24;
const REPLY_BYTES_MAX: u64 = 1 << 32;
/// More actors than this behind one name are no pool: each has a mailbox.
const INSTANCES_MAX: u64 = 1_024;
/// Actors of one kind on one node, whatever is set.
const ACTIVE_MAX: u64 = 10_000_000;
const ACTIVE_MAX_DEFAULT: u64 = 10_000;
const IDLE_DEFAULT: Duration = Duration::from_secs(300);
/// More handlers than this at once are no way to wait for something.
const HANDLERS_MAX: u64 = 1 << 16;

impl Settings {
    fn read(input: &DeriveInput) -> syn::Result<Self> {
        let mut settings = Self {
            krate: args::default_crate(),
            serves: Vec::new(),
            changes: Vec::new(),
            concurrent: None,
            lifecycle: false,
            instances: None,
            key: None,
            idle: None,
            active_max: None,
        };
        let mut overflow = None;
        let mut restart: Vec<(String, TokenStream)> = Vec::new();
        let mut replies: Vec<(&str, TokenStream)> = Vec::new();
        const KNOWN: &[&str] = &[
            "serves",
            "mailbox",
            "overflow",
            "restart",
            "replies",
            "concurrent",
            "lifecycle",
            "instances",
            "key",
            "idle",
            "active_max",
            "crate",
        ];
        args::read(&input.attrs, "actor", KNOWN, |option, meta| {
            match option {
                "serves" => {
                    let list;
                    if !meta.input.peek(syn::token::Paren) {
                        return Err(meta
                            .error("`serves` wants the contracts in parentheses: `serves(Orders, Admin)`"));
                    }
                    syn::parenthesized!(list in meta.input);
                    let span = list.span();
                    let paths =
                        Punctuated::<Path, Token![,]>::parse_terminated_with(&list, Path::parse_mod_style)
                            .map_err(|_| {
                                syn::Error::new(
                                    span,
                                    "`serves` wants the names of contracts: `serves(Orders, Admin)`",
                                )
                            })?;
                    settings.serves = paths.into_iter().collect();
                }
                "mailbox" => {
                    let messages = args::number(meta, option, "messages", 1024, 1..=MAILBOX_MESSAGES_MAX)?;
                    let messages = proc_macro2::Literal::u64_unsuffixed(messages);
                    settings.changes.push(quote!(options.mailbox_messages_max = #messages;));
                }
                "concurrent" => {
                    let handlers = args::number(meta, option, "handlers", 64, 2..=HANDLERS_MAX)?;
                    settings.concurrent = Some(handlers);
                }
                "lifecycle" => settings.lifecycle = true,
                "instances" => {
                    settings.instances = Some(args::number(meta, option, "actors", 4, 1..=INSTANCES_MAX)?);
                }
                "key" => settings.key = Some(args::text(meta, option, "customer")?),
                "idle" => settings.idle = Some(args::duration(meta, option, "5m")?),
                "active_max" => {
                    settings.active_max = Some(args::number(meta, option, "actors", 10_000, 1..=ACTIVE_MAX)?);
                }
                "overflow" => overflow = Some(args::word(meta, option, &["reject", "wait"])?),
                "restart" => {
                    if !meta.input.peek(syn::token::Paren) {
                        return Err(meta.error("`restart` wants its options in parentheses: `restart(max = 5, within = \"30s\")`"));
                    }
                    let mut seen = Vec::new();
                    meta.parse_nested_meta(|inner| {
                        args::option(
                            "restart",
                            &["policy", "max", "within", "backoff"],
                            &mut seen,
                            &inner,
                            &mut |name, inner| {
                                restart.push((name.to_owned(), restart_value(name, inner)?));
                                Ok(())
                            },
                        )
                    })?;
                }
                "replies" => {
                    if !meta.input.peek(syn::token::Paren) {
                        return Err(meta.error("`replies` wants its options in parentheses: `replies(max = 4096, within = \"5m\")`"));
                    }
                    let mut seen = Vec::new();
                    meta.parse_nested_meta(|inner| {
                        args::option(
                            "replies",
                            &["max", "bytes", "within"],
                            &mut seen,
                            &inner,
                            &mut |name, inner| {
                                replies.push(reply_value(name, inner)?);
                                Ok(())
                            },
                        )
                    })?;
                }
                _ => settings.krate = args::crate_path(meta)?,
            }
            Ok(())
        })?;
        for (field, value) in replies {
            let field = format_ident!("{field}");
            settings.changes.push(quote!(options.replies.#field = #value;));
        }
        settings.check_key()?;
        let actor = {
            let krate = &settings.krate;
            quote!(#krate::actor)
        };
        if let Some(word) = overflow {
            let overflow = if word == "wait" { quote!(Wait) } else { quote!(Reject) };
            settings.changes.push(quote!(options.overflow = #actor::Overflow::#overflow;));
        }
        for (name, value) in restart {
            let field = format_ident!("{name}");
            let value = if name == "policy" { quote!(#actor::RestartPolicy::#value) } else { value };
            settings.changes.push(quote!(options.restart.#field = #value;));
        }
        Ok(settings)
    }
}

/// The field of `ReplyLimits` behind an option of `replies`, and its value.
fn reply_value(
    name: &str,
    meta: &syn::meta::ParseNestedMeta<'_>,
) -> syn::Result<(&'static str, TokenStream)> {
    let literal = proc_macro2::Literal::u64_unsuffixed;
    Ok(match name {
        "max" => {
            let max = literal(args::number(meta, name, "answers", 4096, 0..=REPLIES_MAX)?);
            ("entries_max", quote!(#max))
        }
        "bytes" => {
            let bytes = literal(args::number(meta, name, "bytes", 16_777_216, 1024..=REPLY_BYTES_MAX)?);
            ("bytes_max", quote!(#bytes))
        }
        _ => {
            let ms = u64::try_from(args::duration(meta, name, "5m")?.as_millis()).unwrap_or(u64::MAX);
            ("within", quote!(::core::time::Duration::from_millis(#ms)))
        }
    })
}

impl Settings {
    /// What only a keyed actor has, and what it cannot have.
    fn check_key(&self) -> syn::Result<()> {
        let span = proc_macro2::Span::call_site();
        match &self.key {
            None if self.idle.is_some() || self.active_max.is_some() => Err(syn::Error::new(
                span,
                "`idle` and `active_max` are for actors with a key: add `key = \"customer\"`, a parameter that every method has",
            )),
            Some(key) if syn::parse_str::<Ident>(&key.value()).is_err() => Err(syn::Error::new_spanned(
                key,
                format!("`key` wants the name of a parameter such as \"customer\", got {:?}", key.value()),
            )),
            Some(key) if self.instances.is_some() => Err(syn::Error::new_spanned(
                key,
                "an actor has `key` or `instances`, not both: with a key there is one for each value of it",
            )),
            _ => Ok(()),
        }
    }

    /// `INSTANCES` and `KEYED`.
    fn multiplicity(&self) -> TokenStream {
        let krate = &self.krate;
        if let Some(instances) = self.instances {
            let instances = proc_macro2::Literal::u64_unsuffixed(instances);
            return quote!(const INSTANCES: usize = #instances;);
        }
        let Some(key) = &self.key else { return TokenStream::new() };
        let idle = self.idle.unwrap_or(IDLE_DEFAULT);
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let active_max = proc_macro2::Literal::u64_unsuffixed(self.active_max.unwrap_or(ACTIVE_MAX_DEFAULT));
        quote! {
            const KEYED: ::core::option::Option<#krate::actor::Keyed> =
                ::core::option::Option::Some(#krate::actor::Keyed {
                    param: #key,
                    idle: ::core::time::Duration::from_millis(#idle_ms),
                    active_max: #active_max,
                });
        }
    }

    /// A constant that does not compile when a method of a contract has no parameter of the key's name.
    fn key_checks(&self) -> TokenStream {
        let Some(key) = &self.key else { return TokenStream::new() };
        let krate = &self.krate;
        let each = self.serves.iter().map(|path| {
            let contract = args::text_of(path);
            let name = key.value();
            let message = format!(
                "a method of `{contract}` has no parameter `{name}`, which is the key of this actor: give every method a parameter `{name}`, or move the method to the contract of another actor",
            );
            quote_spanned! {key.span()=>
                const _: () = #krate::contract::assert_keyed(
                    <#path as #krate::contract::Service>::METHODS,
                    #key,
                    #message,
                );
            }
        });
        each.collect()
    }
}

fn restart_value(name: &str, meta: &syn::meta::ParseNestedMeta<'_>) -> syn::Result<TokenStream> {
    Ok(match name {
        "policy" => match args::word(meta, name, &["permanent", "transient", "temporary"])?.as_str() {
            "transient" => quote!(Transient),
            "temporary" => quote!(Temporary),
            _ => quote!(Permanent),
        },
        "max" => {
            let max = proc_macro2::Literal::u64_unsuffixed(args::number(
                meta,
                name,
                "restarts",
                5,
                0..=RESTARTS_MAX,
            )?);
            quote!(#max)
        }
        _ => {
            let example = if name == "within" { "30s" } else { "100ms" };
            let ms = u64::try_from(args::duration(meta, name, example)?.as_millis()).unwrap_or(u64::MAX);
            quote!(::core::time::Duration::from_millis(#ms))
        }
    })
}

/// The last words of the paths, which name the variants of the mail.
fn variants(serves: &[Path]) -> syn::Result<Vec<Ident>> {
    let mut errors = Errors::default();
    let mut names: Vec<Ident> = Vec::new();
    for path in serves {
        let Some(last) = path.segments.last() else {
            continue;
        };
        if names.contains(&last.ident) {
            errors.at(
                path,
                format!("`{}` is served twice: leave one, or import one under another name", last.ident),
            );
        }
        names.push(last.ident.clone());
    }
    errors.finish()?;
    Ok(names)
}

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    if let Data::Union(data) = &input.data {
        return Err(syn::Error::new_spanned(data.union_token, "an actor is a struct or an enum"));
    }
    let settings = Settings::read(&input)?;
    let (multiplicity, key_checks) = (settings.multiplicity(), settings.key_checks());
    let Settings { krate, serves, changes, concurrent, lifecycle, .. } = settings;
    let (vis, ident) = (&input.vis, &input.ident);
    if serves.is_empty() {
        return Err(syn::Error::new_spanned(
            ident,
            format!("`{ident}` says no contract that it serves: add `#[actor(serves(Orders))]`"),
        ));
    }
    let variants = variants(&serves)?;
    let (contract, actor) = (quote!(#krate::contract), quote!(#krate::actor));
    let mail = format_ident!("{ident}Mail");
    let kind = ident.to_string();
    let doc = format!("The mail of [`{ident}`]: the calls of every contract it serves.");
    let calls: Vec<_> =
        serves.iter().map(|path| quote_spanned!(path.span()=> <#path as #contract::Service>::Call)).collect();
    let docs = variants.iter().map(|name| format!("A call of `{name}`."));
    // The span of the contract's name: there the compiler shows a handler that is missing.
    let dispatch = serves.iter().zip(&variants).map(|(path, name)| {
        let run = match concurrent {
            Some(_) => quote_spanned!(path.span()=> call.dispatch_beside(&**state, cx).await),
            None => quote_spanned!(path.span()=> call.dispatch(self, cx).await),
        };
        quote!(#mail::#name(call) => #run)
    });
    let handle = match concurrent {
        None => quote! {
            async fn handle(
                &mut self,
                cx: &mut #contract::Cx,
                mail: Self::Mail,
            ) -> ::core::result::Result<(), #contract::Panic> {
                match mail { #(#dispatch),* }
            }
        },
        Some(handlers) => {
            let handlers = proc_macro2::Literal::u64_unsuffixed(handlers);
            quote! {
                const CONCURRENT: usize = #handlers;

                async fn handle(
                    &mut self,
                    _: &mut #contract::Cx,
                    _: Self::Mail,
                ) -> ::core::result::Result<(), #contract::Panic> {
                    let message = "the handlers of this actor overlap".to_owned();
                    ::core::result::Result::Err(#contract::Panic { message })
                }

                async fn handle_beside(
                    state: &::std::rc::Rc<Self>,
                    cx: &mut #contract::Cx,
                    mail: Self::Mail,
                ) -> ::core::result::Result<(), #contract::Panic> {
                    match mail { #(#dispatch),* }
                }
            }
        }
    };
    let life = lifecycle.then(|| {
        let span = ident.span();
        let started = quote_spanned!(span=> #actor::Lifecycle::started(self, cx).await);
        quote! {
            async fn started(
                &mut self,
                cx: &mut #contract::Cx,
            ) -> ::core::result::Result<(), #contract::Status> {
                #started
            }
            fn stopped(&mut self, reason: &#actor::StopReason) {
                #actor::Lifecycle::stopped(self, reason);
            }
        }
    });
    let (generics, types, bounds) = input.generics.split_for_impl();
    let options = (!changes.is_empty()).then(|| {
        quote! {
            #[allow(clippy::all)]
            fn options() -> #actor::Options {
                let mut options = #actor::Options::default();
                #(#changes)*
                options
            }
        }
    });
    Ok(quote! {
        #key_checks

        #[doc = #doc]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        #vis enum #mail { #(#[doc = #docs] #variants(#calls)),* }

        #[automatically_derived]
        impl #contract::Mail for #mail {
            fn meta(&self) -> &#contract::CallMeta {
                match self { #(#mail::#variants(call) => #contract::Mail::meta(call)),* }
            }
            fn method(&self) -> &'static str {
                match self { #(#mail::#variants(call) => #contract::Mail::method(call)),* }
            }
            fn has_items(&self) -> bool {
                match self { #(#mail::#variants(call) => #contract::Mail::has_items(call)),* }
            }
            fn is_cancelled(&self) -> bool {
                match self { #(#mail::#variants(call) => #contract::Mail::is_cancelled(call)),* }
            }
            fn take_ack(&mut self) -> ::core::option::Option<#contract::Ack> {
                match self { #(#mail::#variants(call) => #contract::Mail::take_ack(call)),* }
            }
            fn param(&self, name: &str) -> ::core::option::Option<::std::vec::Vec<u8>> {
                match self { #(#mail::#variants(call) => #contract::Mail::param(call, name)),* }
            }
            fn forward(
                self,
                caller: ::std::sync::Arc<dyn #contract::Caller>,
                mut target: #contract::Target,
            ) -> #contract::BoxFuture<()> {
                match self {
                    #(#mail::#variants(call) => {
                        target.service = <#serves as #contract::Service>::NAME.into();
                        #contract::Mail::forward(call, caller, target)
                    }),*
                }
            }
            fn reject(self, status: #contract::Status) {
                match self { #(#mail::#variants(call) => #contract::Mail::reject(call, status)),* }
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        impl #generics #actor::Actor for #ident #types #bounds {
            type Mail = #mail;
            const KIND: &'static str = #kind;
            #multiplicity

            #options

            #handle

            #life
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        impl #generics #actor::Serves for #ident #types #bounds {
            fn services(address: &#actor::Address<Self::Mail>) -> ::std::vec::Vec<#actor::ServiceEntry> {
                ::std::vec![#(
                    #actor::ServiceEntry::of::<#serves>(address.accepting_with(#mail::#variants))
                ),*]
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
    fn options_that_are_given_change_the_defaults() {
        let text = expand(syn::parse_quote! {
            #[actor(serves(Orders, admin::Admin), mailbox = 16, overflow = "wait", restart(max = 5, within = "30s", policy = "transient"), replies(max = 0, bytes = 2048, within = "1m"))]
            struct Desk;
        })
        .unwrap()
        .to_string();
        for part in [
            "options . mailbox_messages_max = 16 ;",
            "options . overflow = :: afflux :: actor :: Overflow :: Wait ;",
            "options . restart . max = 5 ;",
            "options . restart . within = :: core :: time :: Duration :: from_millis (30000u64) ;",
            "options . restart . policy = :: afflux :: actor :: RestartPolicy :: Transient ;",
            "options . replies . entries_max = 0 ;",
            "options . replies . bytes_max = 2048 ;",
            "options . replies . within = :: core :: time :: Duration :: from_millis (60000u64) ;",
            "enum DeskMail",
            "DeskMail :: Admin (call)",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn an_actor_without_options_keeps_the_defaults_of_the_runtime() {
        let text = expand(syn::parse_quote! { #[actor(serves(Orders))] struct Desk; }).unwrap().to_string();
        assert!(!text.contains("fn options"), "{text}");
    }

    #[test]
    fn wrong_options_name_the_value_and_the_cure() {
        for (input, part) in [
            (syn::parse_quote! { struct D; }, "add `#[actor(serves(Orders))]`"),
            (syn::parse_quote! { #[actor(serves = Orders)] struct D; }, "`serves(Orders, Admin)`"),
            (syn::parse_quote! { #[actor(serves("Orders"))] struct D; }, "wants the names of contracts"),
            (syn::parse_quote! { #[actor(serves(A, b::A))] struct D; }, "`A` is served twice"),
            (
                syn::parse_quote! { #[actor(serves(A), mailbox = "9")] struct D; },
                "`mailbox` wants a number of messages such as 1024, got `\"9\"`",
            ),
            (
                syn::parse_quote! { #[actor(serves(A), mailbox = 0)] struct D; },
                "`mailbox` is from 1 to 16777216 messages, got `0`",
            ),
            (
                syn::parse_quote! { #[actor(serves(A), overflow = "rejct")] struct D; },
                "`overflow` is never \"rejct\": did you mean `reject`?",
            ),
            (
                syn::parse_quote! { #[actor(serves(A), restart(max = 5, withn = "3s"))] struct D; },
                "`restart` has no option `withn`: did you mean `within`?",
            ),
            (
                syn::parse_quote! { #[actor(serves(A), restart(within = "3"))] struct D; },
                "`within` wants text such as \"30s\", got \"3\"",
            ),
            (
                syn::parse_quote! { #[actor(serves(A), replies(bytes = 7))] struct D; },
                "`bytes` is from 1024 to 4294967296 bytes, got `7`",
            ),
            (syn::parse_quote! { #[actor(serves(A), replies = 7)] struct D; }, "`replies` wants its options"),
            (syn::parse_quote! { #[actor] struct D; }, "wants its options in parentheses"),
            (
                syn::parse_quote! { #[actor(serves(A), instances = 0)] struct D; },
                "`instances` is from 1 to 1024 actors, got `0`",
            ),
            (syn::parse_quote! { #[actor(serves(A), idle = "5m")] struct D; }, "are for actors with a key"),
            (syn::parse_quote! { #[actor(serves(A), key = "a b")] struct D; }, "the name of a parameter"),
            (
                syn::parse_quote! { #[actor(serves(A), key = "customer", instances = 2)] struct D; },
                "`key` or `instances`, not both",
            ),
        ] {
            let text = error_of(input);
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
