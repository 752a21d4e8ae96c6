//! `derive(Service)`: the types of a contract, from the enum that names its methods.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, LitStr, Path, Type, Visibility};

use crate::args;
use crate::methods::{self, Hedge, Method};

/// A contract, read.
struct Contract {
    vis: Visibility,
    ident: Ident,
    name: String,
    version: String,
    doc: String,
    error: Type,
    /// `::afflux::contract`.
    contract: TokenStream,
    /// `::afflux::__private`.
    private: TokenStream,
    methods: Vec<Method>,
    call: Ident,
    body: Ident,
    client: Ident,
    handler: Ident,
    shared: Ident,
}

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let contract = Contract::read(input)?;
    let parts = [
        contract.params(),
        contract.call(),
        contract.handlers(),
        contract.client(),
        contract.calls(),
        contract.service(),
        contract.construction(),
    ];
    Ok(parts.into_iter().collect())
}

/// Lints that generated code must not trip in a user's crate: a contract is often only served, or
/// only called, and its shape is the user's.
fn quiet() -> TokenStream {
    quote!(#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)])
}

/// A name that no parameter of a user can be.
fn mixed(name: &str) -> Ident {
    Ident::new(name, proc_macro2::Span::mixed_site())
}

/// The ends that a handler gets behind its parameters, with the types of their items.
fn stream_ends(method: &Method) -> Vec<(Ident, &Type)> {
    let incoming = method.accepts.as_ref().map(|item| (mixed("incoming"), item));
    let emit = method.streams.as_ref().map(|item| (mixed("emit"), item));
    incoming.into_iter().chain(emit).collect()
}

impl Contract {
    fn read(input: DeriveInput) -> syn::Result<Self> {
        let Data::Enum(data) = &input.data else {
            return Err(syn::Error::new_spanned(
                &input.ident,
                format!(
                    "a contract is an enum with a variant for each method: `enum {} {{ Get {{ id: u64 }} }}`",
                    input.ident
                ),
            ));
        };
        if !input.generics.params.is_empty() {
            return Err(syn::Error::new_spanned(
                &input.generics,
                "a contract has no type parameters: its types are fixed on the wire",
            ));
        }
        let mut name = None;
        let mut version = None;
        let mut error: Option<Type> = None;
        let mut krate: Path = args::default_crate();
        args::read(&input.attrs, "service", &["name", "version", "error", "crate"], |option, meta| {
            match option {
                "name" => name = Some(args::text(meta, option, "shop.orders")?),
                "version" => version = Some(args::text(meta, option, "1.0")?),
                "error" => error = Some(args::ty(meta, option, "OrderError")?),
                _ => krate = args::crate_path(meta)?,
            }
            Ok(())
        })?;
        let name = service_name(&input.ident, name)?;
        let version = match version {
            Some(text) if text.value().trim().is_empty() => {
                return Err(syn::Error::new_spanned(text, "`version` is empty: write such as \"1.0\""));
            }
            Some(text) => text.value(),
            None => "1.0".to_owned(),
        };
        let methods = methods::read(&input.ident, data)?;
        let contract = quote!(#krate::contract);
        Ok(Self {
            error: error.unwrap_or_else(|| syn::parse_quote!(#contract::NoError)),
            private: quote!(#krate::__private),
            call: format_ident!("{}Call", input.ident),
            body: format_ident!("{}Body", input.ident),
            client: format_ident!("{}Client", input.ident),
            handler: format_ident!("{}Handler", input.ident),
            shared: format_ident!("{}Shared", input.ident),
            doc: args::doc_of(&input.attrs),
            vis: input.vis,
            ident: input.ident,
            contract,
            name,
            version,
            methods,
        })
    }

    /// One type a method: its parameters.
    fn params(&self) -> TokenStream {
        let Self { vis, ident, contract, private, error, call, body, .. } = self;
        let quiet = quiet();
        let serde = format!("{private}::serde").replace(' ', "");
        let schemars = format!("{private}::schemars").replace(' ', "");
        let each = self.methods.iter().enumerate().map(|(index, method)| {
            let Method { variant, params, returns, .. } = method;
            let doc = format!("The parameters of `{}/{variant}`.", self.name);
            let text = params.to_string();
            let placed = placed(contract, method);
            let fields = method.fields.iter().map(|field| {
                let (name, ty, kept) = (&field.name, &field.ty, &field.kept);
                let doc = if field.doc.is_empty() { format!("The parameter `{name}`.") } else { field.doc.clone() };
                quote!(#[doc = #doc] #(#kept)* #vis #name: #ty)
            });
            // A parameter with a codec of its own need not be encodable by itself.
            let plain = method.fields.iter().filter(|field| {
                !field.kept.iter().any(|attr| attr.meta.to_token_stream().to_string().contains("with"))
            });
            let param_arms = plain.map(|field| {
                let name = &field.name;
                let text = name.to_string().trim_start_matches("r#").to_owned();
                quote!(#text => #contract::encode_param(&self.#name),)
            });
            let param = quote! {
                fn param(&self, name: &str) -> ::core::option::Option<::std::vec::Vec<u8>> {
                    match name {
                        #(#param_arms)*
                        _ => ::core::option::Option::None,
                    }
                }
            };
            let implementation = match method.shape(contract) {
                None => quote! {
                    #[automatically_derived]
                    impl #contract::Params for #params {
                        type Service = #ident;
                        type Output = #returns;
                        const METHOD: usize = #index;

                        #param

                        fn into_call(
                            self,
                            meta: #contract::CallMeta,
                            reply: ::core::option::Option<#contract::Reply<#returns, #error>>,
                        ) -> #call {
                            #call { meta, body: #body::#variant(self, reply) }
                        }
                        #placed
                        fn recover(call: #call) -> ::core::result::Result<Self, #call> {
                            match call {
                                #call { body: #body::#variant(params, reply), .. } => {
                                    if let ::core::option::Option::Some(reply) = reply {
                                        reply.release();
                                    }
                                    ::core::result::Result::Ok(params)
                                }
                                #[allow(unreachable_patterns)]
                                other => ::core::result::Result::Err(other),
                            }
                        }
                    }
                },
                Some(shape) => quote! {
                    #[automatically_derived]
                    impl #contract::StreamParams for #params {
                        type Service = #ident;
                        type Shape = #shape;
                        const METHOD: usize = #index;

                        #param

                        fn into_call(
                            self,
                            meta: #contract::CallMeta,
                            ends: #contract::Ends<#shape, #error>,
                        ) -> #call {
                            #call { meta, body: #body::#variant(self, ends) }
                        }
                    }
                },
            };
            quote! {
                #[doc = #doc]
                #[derive(#private::serde::Serialize, #private::serde::Deserialize, #private::schemars::JsonSchema)]
                #[serde(crate = #serde)]
                #[schemars(crate = #schemars)]
                #quiet
                #vis struct #params { #(#fields),* }

                #[automatically_derived]
                impl ::core::fmt::Debug for #params {
                    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                        f.debug_struct(#text).finish_non_exhaustive()
                    }
                }

                #implementation
            }
        });
        each.collect()
    }

    /// How each method reaches `handler`, an implementor of this trait.
    fn arms(&self, handler_trait: &Ident) -> Vec<TokenStream> {
        let Self { ident, contract, body, .. } = self;
        let arm = |(index, method): (usize, &Method)| {
            let Method { variant, params, name, .. } = method;
            let fields: Vec<_> = method.fields.iter().map(|f| &f.name).collect();
            if method.is_stream() {
                let ends = stream_ends(method).into_iter().map(|(name, _)| name);
                let (incoming, emit) = (mixed("incoming"), mixed("emit"));
                return quote! {
                    #body::#variant(#params { #(#fields),* }, ends) => {
                        cx.answering(
                            self.meta,
                            ends.cancel_token(),
                            <#ident as #contract::Service>::NAME,
                            &<#ident as #contract::Service>::METHODS[#index],
                        );
                        let (#incoming, #emit, reply) = ends.split();
                        let reply = ::core::option::Option::Some(reply);
                        #contract::answer(reply, async {
                            #handler_trait::#name(handler, &mut *cx, #(#fields,)* #(#ends),*).await
                        }).await?
                    }
                };
            }
            // The async block puts the whole call under the answer's `catch_unwind`.
            quote! {
                #body::#variant(#params { #(#fields),* }, reply) => {
                    cx.answering(
                        self.meta,
                        #contract::Reply::token(&reply),
                        <#ident as #contract::Service>::NAME,
                        &<#ident as #contract::Service>::METHODS[#index],
                    );
                    #contract::answer(
                        reply,
                        async { #handler_trait::#name(handler, &mut *cx, #(#fields),*).await },
                    ).await?
                }
            }
        };
        self.methods.iter().enumerate().map(arm).collect()
    }

    /// What lies in a mailbox, and how it reaches the handler.
    fn call(&self) -> TokenStream {
        let Self { vis, contract, error, call, body, handler, shared, .. } = self;
        let quiet = quiet();
        let acked: Vec<_> = self.methods.iter().filter(|m| m.ack).map(|m| &m.variant).collect();
        // Methods without an acknowledgement pay nothing for those that have one.
        let take_ack = (!acked.is_empty()).then(|| {
            quote! {
                fn take_ack(&mut self) -> ::core::option::Option<#contract::Ack> {
                    match &mut self.body {
                        #(#body::#acked(_, reply) => reply.take().map(#contract::Reply::into_ack),)*
                        #[allow(unreachable_patterns)]
                        _ => ::core::option::Option::None,
                    }
                }
            }
        });
        let doc =
            format!("One call of `{}` with the obligation to answer it, as it lies in a mailbox.", self.name);
        let variants: Vec<_> = self.methods.iter().map(|m| &m.variant).collect();
        let names: Vec<_> = variants.iter().map(|v| v.to_string()).collect();
        let params = self.methods.iter().map(|m| &m.params);
        let ways = self.methods.iter().map(|method| {
            let returns = &method.returns;
            match method.shape(contract) {
                None => quote!(::core::option::Option<#contract::Reply<#returns, #error>>),
                Some(shape) => quote!(#contract::Ends<#shape, #error>),
            }
        });
        let cancelled = self.methods.iter().map(|method| {
            let variant = &method.variant;
            match method.is_stream() {
                true => quote!(#body::#variant(_, ends) => ends.is_cancelled()),
                false => {
                    quote!(#body::#variant(_, reply) => reply.as_ref().is_some_and(|reply| reply.is_cancelled()))
                }
            }
        });
        let rejected = self.methods.iter().map(|method| {
            let variant = &method.variant;
            match method.is_stream() {
                true => quote!(#body::#variant(_, ends) => ends.reject(status)),
                false => quote! {
                    #body::#variant(_, reply) => if let ::core::option::Option::Some(reply) = reply {
                        reply.reject(status);
                    }
                },
            }
        });
        let param_of = self.methods.iter().map(|method| match method.is_stream() {
            true => quote!(#contract::StreamParams),
            false => quote!(#contract::Params),
        });
        let forward = self
            .methods
            .iter()
            .map(|method| mixed(if method.is_stream() { "forward_stream" } else { "forward" }));
        let with_items: Vec<_> = self.methods.iter().filter(|m| m.is_stream()).map(|m| &m.variant).collect();
        let has_items = (!with_items.is_empty()).then(|| {
            quote! {
                fn has_items(&self) -> bool {
                    matches!(&self.body, #(#body::#with_items(..))|*)
                }
            }
        });
        let (arms, arms_beside) = (self.arms(handler), self.arms(shared));
        quote! {
            #[doc = #doc]
            #quiet
            #vis struct #call { meta: #contract::CallMeta, body: #body }

            #quiet
            enum #body {
                #(#variants(#params, #ways)),*
            }

            #[automatically_derived]
            #quiet
            impl #call {
                /// Runs the method on a handler and answers the caller with its result or its panic.
                ///
                /// The failure of a call that nobody waits for is left in `Cx::take_failure`.
                ///
                /// # Errors
                /// The handler's panic, after the caller has been answered.
                #vis async fn dispatch<H: #handler>(
                    self,
                    handler: &mut H,
                    cx: &mut #contract::Cx,
                ) -> ::core::result::Result<(), #contract::Panic> {
                    let failure = match self.body { #(#arms)* };
                    if let ::core::option::Option::Some(status) = failure {
                        cx.fail(status);
                    }
                    ::core::result::Result::Ok(())
                }

                /// The same on a handler whose methods overlap.
                ///
                /// # Errors
                /// The handler's panic, after the caller has been answered.
                #vis async fn dispatch_beside<H: #shared>(
                    self,
                    handler: &H,
                    cx: &mut #contract::Cx,
                ) -> ::core::result::Result<(), #contract::Panic> {
                    let failure = match self.body { #(#arms_beside)* };
                    if let ::core::option::Option::Some(status) = failure {
                        cx.fail(status);
                    }
                    ::core::result::Result::Ok(())
                }
            }

            #[automatically_derived]
            #quiet
            impl #contract::Mail for #call {
                fn meta(&self) -> &#contract::CallMeta {
                    &self.meta
                }
                fn method(&self) -> &'static str {
                    match &self.body { #(#body::#variants(..) => #names),* }
                }
                #has_items
                fn is_cancelled(&self) -> bool {
                    match &self.body { #(#cancelled),* }
                }
                fn param(&self, name: &str) -> ::core::option::Option<::std::vec::Vec<u8>> {
                    match &self.body {
                        #(#body::#variants(params, ..) => #param_of::param(params, name)),*
                    }
                }
                fn forward(
                    self,
                    caller: ::std::sync::Arc<dyn #contract::Caller>,
                    target: #contract::Target,
                ) -> #contract::BoxFuture<()> {
                    match self.body {
                        #(#body::#variants(params, ends) =>
                            #contract::#forward(params, self.meta, ends, caller, target)),*
                    }
                }
                #take_ack
                fn reject(self, status: #contract::Status) {
                    match self.body { #(#rejected),* }
                }
            }
        }
    }

    /// What a user implements: one of two traits.
    fn handlers(&self) -> TokenStream {
        let one_at_a_time = "implement it with one `async fn` a method.";
        let overlapping = "implement it with one `async fn` a method, on an actor that is `concurrent`.";
        let each = [
            self.handler(&self.handler, &quote!(&mut self), one_at_a_time),
            self.handler(&self.shared, &quote!(&self), overlapping),
        ];
        each.into_iter().collect()
    }

    fn handler(&self, handler: &Ident, receiver: &TokenStream, how: &str) -> TokenStream {
        let Self { vis, ident, contract, error, .. } = self;
        let quiet = quiet();
        let doc = format!("What serves `{}`: {how}", self.name);
        let message = format!("`{{Self}}` does not handle the calls of `{ident}`");
        let label = format!("needs `impl {handler} for {{Self}}`");
        let note =
            format!("write `impl {handler} for {{Self}}` with one `async fn` for each method of `{ident}`");
        let each = self.methods.iter().map(|method| {
            let Method { name, returns, doc, .. } = method;
            let doc = if doc.is_empty() { format!("Handles `{}/{}`.", self.name, method.variant) } else { doc.clone() };
            let fields = method.fields.iter().map(|f| {
                let (name, ty) = (&f.name, &f.ty);
                quote!(#name: #ty)
            });
            let ends = stream_ends(method).into_iter().map(|(name, item)| match name == "emit" {
                true => quote!(#name: #contract::Emit<#item>),
                false => quote!(#name: #contract::Incoming<#item>),
            });
            // The span of the variant: there the compiler shows a method that is missing.
            quote_spanned! {method.variant.span()=>
                #[doc = #doc]
                fn #name(#receiver, cx: &mut #contract::Cx, #(#fields,)* #(#ends),*)
                    -> impl ::core::future::Future<Output = ::core::result::Result<#returns, #contract::Fault<#error>>>;
            }
        });
        quote! {
            #[doc = #doc]
            #[diagnostic::on_unimplemented(message = #message, label = #label, note = #note)]
            #quiet
            #vis trait #handler { #(#each)* }
        }
    }

    /// What a caller holds.
    fn client(&self) -> TokenStream {
        let Self { vis, ident, contract, client, .. } = self;
        let quiet = quiet();
        let doc = format!(
            "Calls `{}`: a name, not a connection. Cheap to clone; a call starts when it is awaited.",
            self.name
        );
        let text = client.to_string();
        let each = self.methods.iter().map(|method| {
            let Method { name, params, doc, .. } = method;
            let doc = if doc.is_empty() {
                format!("Calls `{}/{}`.", self.name, method.variant)
            } else {
                doc.clone()
            };
            let names: Vec<_> = method.fields.iter().map(|f| &f.name).collect();
            let types = method.fields.iter().map(|f| &f.ty);
            if method.is_stream() {
                return quote! {
                    #[doc = #doc]
                    #vis fn #name(&self, #(#names: #types),*) -> #contract::StreamCall<#params> {
                        self.0.open(#params { #(#names),* })
                    }
                };
            }
            quote! {
                #[doc = #doc]
                #vis fn #name(&self, #(#names: #types),*) -> #contract::Call<#params> {
                    self.0.call(#params { #(#names),* })
                }
            }
        });
        quote! {
            #[doc = #doc]
            #[derive(::core::clone::Clone)]
            #quiet
            #vis struct #client(#contract::Handle<#ident>);

            #[automatically_derived]
            #quiet
            impl #client { #(#each)* }

            #[automatically_derived]
            impl ::core::fmt::Debug for #client {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.debug_tuple(#text).field(self.0.target()).finish()
                }
            }

            #[automatically_derived]
            impl ::core::convert::From<#contract::Handle<#ident>> for #client {
                fn from(handle: #contract::Handle<#ident>) -> Self {
                    Self(handle)
                }
            }

            #[automatically_derived]
            impl ::core::convert::AsRef<#contract::Handle<#ident>> for #client {
                fn as_ref(&self) -> &#contract::Handle<#ident> {
                    &self.0
                }
            }
        }
    }

    /// The methods of the client on a reference to one actor.
    fn calls(&self) -> TokenStream {
        let Self { vis, ident, contract, .. } = self;
        let quiet = quiet();
        let calls = format_ident!("{ident}Calls");
        let doc = format!("Calls `{}` on one actor, by the node of the running task.", self.name);
        let each = self.methods.iter().map(|method| {
            let Method { name, params, .. } = method;
            let doc = format!("Calls `{}/{}` on this actor.", self.name, method.variant);
            let names: Vec<_> = method.fields.iter().map(|f| &f.name).collect();
            let types: Vec<_> = method.fields.iter().map(|f| &f.ty).collect();
            let (call, start) = match method.is_stream() {
                true => (mixed("StreamCall"), mixed("open")),
                false => (mixed("Call"), mixed("call")),
            };
            (
                quote!(#[doc = #doc] fn #name(&self, #(#names: #types),*) -> #contract::#call<#params>;),
                quote! {
                    fn #name(&self, #(#names: #types),*) -> #contract::#call<#params> {
                        #contract::ActorRef::handle(self).#start(#params { #(#names),* })
                    }
                },
            )
        });
        let (declared, defined): (Vec<_>, Vec<_>) = each.unzip();
        quote! {
            #[doc = #doc]
            #quiet
            #vis trait #calls { #(#declared)* }

            #[automatically_derived]
            #quiet
            impl #calls for #contract::ActorRef<#ident> { #(#defined)* }
        }
    }

    /// `impl Service`.
    fn service(&self) -> TokenStream {
        let Self { ident, contract, name, version, doc, error, call, client, .. } = self;
        let typed_error = error;
        let specs = self.methods.iter().map(|method| {
            let Method {
                variant,
                params,
                doc,
                idempotent,
                allow,
                readonly,
                detached,
                ack,
                priority,
                returns,
                ..
            } = method;
            let name = variant.to_string();
            let kind = method.kind();
            let item = |item: &Option<Type>| match item {
                Some(item) => {
                    quote_spanned!(item.span()=> ::core::option::Option::Some(#contract::schema_of::<#item>))
                }
                None => quote!(::core::option::Option::None),
            };
            let (accepts, streams) = (item(&method.accepts), item(&method.streams));
            let fields = method.fields.iter().map(|f| f.name.to_string().trim_start_matches("r#").to_owned());
            let deadline_ms = u64::try_from(method.deadline.as_millis()).unwrap_or(u64::MAX);
            let returns = quote_spanned!(returns.span()=> #contract::schema_of::<#returns>);
            quote! {
                #contract::MethodSpec {
                    name: #name,
                    kind: #contract::MethodKind::#kind,
                    doc: #doc,
                    deadline: ::core::time::Duration::from_millis(#deadline_ms),
                    idempotent: #idempotent,
                    allow: #allow,
                    readonly: #readonly,
                    priority: #contract::Priority::#priority,
                    detached: #detached,
                    ack: #ack,
                    fields: &[#(#fields),*],
                    params: #contract::schema_of::<#params>,
                    returns: #returns,
                    error: #contract::schema_of::<#typed_error>,
                    accepts: #accepts,
                    streams: #streams,
                }
            }
        });
        let decodes = self.methods.iter().map(|method| {
            let params = &method.params;
            match method.is_stream() {
                true => quote!(#contract::decode_stream::<#params>(params, meta, reply)),
                false => quote!(#contract::decode_params::<#params>(params, meta, reply)),
            }
        });
        let count = self.methods.len();
        let indices = 0..count;
        quote! {
            #[automatically_derived]
            impl #contract::Service for #ident {
                const NAME: &'static str = #name;
                const VERSION: &'static str = #version;
                const DOC: &'static str = #doc;
                const METHODS: &'static [#contract::MethodSpec] = {
                    // A static, so that a method has one address in the whole process.
                    static METHODS: [#contract::MethodSpec; #count] = [#(#specs),*];
                    &METHODS
                };
                type Error = #error;
                type Call = #call;
                type Client = #client;

                fn decode(
                    method: usize,
                    params: &[u8],
                    meta: #contract::CallMeta,
                    reply: ::core::option::Option<#contract::ReplyTo>,
                ) -> ::core::result::Result<Self::Call, (#contract::Status, ::core::option::Option<#contract::ReplyTo>)> {
                    match method {
                        #(#indices => #decodes,)*
                        _ => ::core::result::Result::Err((#contract::no_such_method::<Self>(method), reply)),
                    }
                }
            }
        }
    }

    /// The enum is only a name, so that nobody makes its variants or reads them; this keeps the
    /// compiler from calling them dead.
    fn construction(&self) -> TokenStream {
        let ident = &self.ident;
        // Not made in the arms below: what an arm makes of its own variant does not count.
        let made = self.methods.iter().map(|method| {
            let Method { variant, name, params, .. } = method;
            let names: Vec<_> = method.fields.iter().map(|f| &f.name).collect();
            quote! {
                #[allow(dead_code)]
                fn #name(#params { #(#names),* }: #params) -> #ident {
                    #ident::#variant { #(#names),* }
                }
            }
        });
        let arms = self.methods.iter().map(|method| {
            let variant = &method.variant;
            let names: Vec<_> = method.fields.iter().map(|f| &f.name).collect();
            quote!(#ident::#variant { #(#names),* } => { #(let _ = #names;)* })
        });
        quote! {
            const _: () = {
                #(#made)*

                #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
                fn __read(method: &#ident) {
                    match method { #(#arms),* }
                }
            };
        }
    }
}

/// What a method says of where its calls go.
fn placed(contract: &TokenStream, method: &Method) -> TokenStream {
    let key = method.route.as_ref().map(|field| {
        quote! {
            fn key(&self) -> ::core::option::Option<u64> {
                ::core::option::Option::Some(#contract::key_hash(&self.#field))
            }
        }
    });
    let hedge = method.hedge.map(|hedge| {
        let hedge = match hedge {
            Hedge::P95 => quote!(#contract::Hedge::P95),
            Hedge::After(after) => {
                let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                quote!(#contract::Hedge::After(::core::time::Duration::from_millis(#ms)))
            }
        };
        quote!(const HEDGE: ::core::option::Option<#contract::Hedge> = ::core::option::Option::Some(#hedge);)
    });
    quote!(#key #hedge)
}

/// The name in the registry: needed, and without what separates it from a method.
fn service_name(ident: &Ident, name: Option<LitStr>) -> syn::Result<String> {
    let Some(text) = name else {
        return Err(syn::Error::new_spanned(
            ident,
            format!(
                "`{ident}` needs the name under which it is found: `#[service(name = \"shop.{}\")]`",
                crate::naming::snake(&ident.to_string())
            ),
        ));
    };
    let name = text.value();
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    if name.split('.').all(part) {
        return Ok(name);
    }
    Err(syn::Error::new_spanned(
        &text,
        format!(
            "the service name {name:?} is not a dotted name: letters, digits, `_` and `-`, each part beginning with a letter, such as \"shop.orders\""
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(input: DeriveInput) -> String {
        let error = expand(input).expect_err("must be refused");
        error.into_iter().map(|e| e.to_string()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_contract_becomes_params_call_handler_client_and_service() {
        let input = syn::parse_quote! {
            #[service(name = "shop.orders")]
            pub enum Orders {
                /// Places.
                #[rpc(returns = Receipt, deadline = "2s")] Place { order: Order },
                #[rpc(oneway)] Touch,
            }
        };
        let file: syn::File = syn::parse2(expand(input).unwrap()).unwrap();
        let names: Vec<String> = file
            .items
            .iter()
            .filter_map(|item| match item {
                syn::Item::Struct(s) => Some(s.ident.to_string()),
                syn::Item::Enum(e) => Some(e.ident.to_string()),
                syn::Item::Trait(t) => Some(t.ident.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(
            names,
            [
                "OrdersPlace",
                "OrdersTouch",
                "OrdersCall",
                "OrdersBody",
                "OrdersHandler",
                "OrdersShared",
                "OrdersClient",
                "OrdersCalls"
            ]
        );
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_cure() {
        let text = error_of(syn::parse_quote! {
            #[service(name = "shop.orders")]
            enum Orders {
                #[rpc(retuns = Receipt)] Place(Order),
                #[rpc(deadline = 2)] Get { cx: u64 },
                #[rpc(oneway, returns = u8)] Call,
                #[rpc(oneway, streams = Event)] Watch,
                #[rpc(streams = Event, returns = u8)] Follow,
                #[rpc(idempotent = true)] Super { name: &'static str },
                #[rpc(ack)] Acked,
                #[rpc(oneway, readonly)] Looked,
                #[rpc(priority = "hihg")] Hurried,
            }
        });
        for part in [
            "`rpc` has no option `retuns`: did you mean `returns`?",
            "write `Place { order: Order }`",
            "`deadline` wants text such as \"2s\", got `2`",
            "`cx` is the context",
            "a one-way method answers nothing: remove `returns = u8` or `oneway`",
            "`OrdersCall`",
            "a one-way method has no items: remove `streams = Event` or `oneway`",
            "a method that streams answers with its items alone: remove `returns = u8`",
            "`idempotent` stands alone",
            "`Super` cannot be a method",
            "add `oneway`, or remove `ack`",
            "remove `readonly` or `oneway`",
            "`priority` is never \"hihg\": did you mean `high`?",
            "cannot be a reference",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_contract_without_a_name_is_told_where_to_put_it() {
        let text = error_of(syn::parse_quote! { enum Orders { Get { id: u64 } } });
        assert!(text.contains("#[service(name = \"shop.orders\")]"), "{text}");
        let text =
            error_of(syn::parse_quote! { #[service(name = "Shop/Orders")] enum Orders { Get { id: u64 } } });
        assert!(text.contains("not a dotted name"), "{text}");
        let text = error_of(syn::parse_quote! { #[service(name = "s", name = "t")] enum Orders { Get } });
        assert!(text.contains("`name` is given twice"), "{text}");
    }

    #[test]
    fn two_variants_that_are_one_method_are_refused() {
        let text = error_of(syn::parse_quote! { #[service(name = "s")] enum S { GetHTTP, GetHttp } });
        assert!(text.contains("both the method `get_http`"), "{text}");
    }

    #[test]
    fn only_an_enum_without_parameters_is_a_contract() {
        assert!(error_of(syn::parse_quote! { struct S; }).contains("a contract is an enum"));
        assert!(error_of(syn::parse_quote! { enum S<T> { A { t: T } } }).contains("no type parameters"));
        assert!(error_of(syn::parse_quote! { #[service(name = "s")] enum S {} }).contains("has no methods"));
    }
}
