//! Who may call what: one place, asked by every door before anything is decoded.
//!
//! Authentication is *on* as soon as one of these is given: mutual TLS, the cluster's token, tokens of callers.
//! Then nobody without an identity gets in. It is *strict* with mutual TLS or tokens of callers: then callers
//! differ, and what no rule allows is refused, also to the cluster's own nodes. With the cluster's token alone
//! there is one secret and so one kind of caller: whoever knows it may call everything.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use afflux_wire::contract::{Identity, IdentityKind};
use afflux_wire::{Code, Executed, NodeId, Stage, Status};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

/// Callers with a token of their own.
pub const TOKENS_MAX: usize = 4_096;
/// Rules of `auth.allow`.
pub const RULES_MAX: usize = 1_024;
/// Services of the framework itself: for the cluster's nodes, and for whom a rule names them.
const OWN_PREFIX: &str = "afflux.";
/// In a method's `allow`: whoever has an identity.
const AUTHENTICATED: &str = "authenticated";
/// In a method's `allow`: everybody.
const ANYONE: &str = "anyone";

/// Who is asked for what, and what is allowed.
///
/// ```
/// use afflux_mesh::Access;
///
/// let access = Access::default()
///     .token_digest("support/alice", "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8")?
///     .allow("support = shop.orders/Get")?;
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Default)]
pub struct Access {
    mutual: bool,
    cluster: Option<Arc<str>>,
    tokens: Vec<(Arc<Identity>, [u8; 32])>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    who: String,
    service: String,
    method: String,
}

impl Access {
    /// Callers show certificates (mutual TLS).
    #[must_use]
    pub fn mutual(mut self, mutual: bool) -> Self {
        self.mutual = mutual;
        self
    }

    /// The secret of the whole cluster: its owner is one of its nodes.
    #[must_use]
    pub fn cluster_token(mut self, token: Option<&str>) -> Self {
        self.cluster = token.filter(|token| !token.is_empty()).map(Arc::from);
        self
    }

    /// A caller, and the SHA-256 of its token in 64 hexadecimal digits.
    ///
    /// # Errors
    /// A name that is none, a digest of another length, more than [`TOKENS_MAX`] callers.
    pub fn token_digest(mut self, name: &str, digest: &str) -> Result<Self, String> {
        let (name, digest) = (name.trim(), digest.trim());
        if !is_name(name) {
            return Err(format!("`{name}` is no caller's name: expected role/name, such as support/alice"));
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Err(format!(
                "more than {TOKENS_MAX} callers have tokens: give groups of them a role each"
            ));
        }
        let digest = unhex(digest).ok_or_else(|| {
            format!(
                "the digest of {name} is not the SHA-256 of a token: expected 64 hexadecimal digits, got {}",
                digest.len()
            )
        })?;
        if self.tokens.iter().any(|(_, known)| *known == digest) {
            return Err(format!("the token of {name} belongs to another caller too: make a new one"));
        }
        self.tokens.push((Arc::new(Identity::new(name, IdentityKind::Token)), digest));
        Ok(self)
    }

    /// Callers and digests, one `role/name:digest` a line; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The number of the first line that is none, and why.
    pub fn token_lines(self, text: &str) -> Result<Self, String> {
        (1..).zip(text.lines()).try_fold(self, |access, (number, line)| {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                return Ok(access);
            }
            let (name, digest) = line
                .split_once(':')
                .ok_or_else(|| format!("line {number}: expected role/name:sha256, got no `:`"))?;
            access.token_digest(name, digest).map_err(|why| format!("line {number}: {why}"))
        })
    }

    /// A rule `WHO = WHAT`: a role, or an identity with `*` in it, and `service/method` with `*` in it.
    /// `*` alone is every service but the framework's own, which begin with `afflux.` and are named so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn allow(mut self, rule: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "the rule `{rule}` {why}: expected WHO = SERVICE/METHOD, such as `support = shop.orders/*` or `node/* = *`"
            )
        };
        let (who, what) = rule.split_once('=').ok_or_else(|| wrong("has no `=`"))?;
        let (who, what) = (who.trim(), what.trim());
        if who.is_empty() || what.is_empty() {
            return Err(wrong("lacks a side"));
        }
        if !who.chars().chain(what.chars()).all(is_legal) {
            return Err(wrong("has a letter that no name has"));
        }
        if self.rules.len() >= RULES_MAX {
            return Err(format!("more than {RULES_MAX} rules: use roles and `*`"));
        }
        let (service, method) = what.split_once('/').unwrap_or((what, "*"));
        self.rules.push(Rule { who: who.to_owned(), service: service.to_owned(), method: method.to_owned() });
        Ok(self)
    }

    /// Whether callers are asked who they are.
    pub fn is_on(&self) -> bool {
        self.mutual || self.cluster.is_some() || !self.tokens.is_empty()
    }

    /// Whether what no rule allows is refused.
    pub fn is_strict(&self) -> bool {
        self.mutual || !self.tokens.is_empty()
    }

    /// Whose token this is. Takes as long for every wrong one.
    fn owner(&self, token: &str) -> Option<Owner> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for (identity, known) in &self.tokens {
            if equal(known, &digest) {
                found = Some(Owner::Caller(Arc::clone(identity)));
            }
        }
        if let Some(cluster) = &self.cluster {
            let known: [u8; 32] = Sha256::digest(cluster.as_bytes()).into();
            if equal(&known, &digest) && found.is_none() {
                found = Some(Owner::Cluster);
            }
        }
        found
    }

    fn permits(&self, identity: &Identity, service: &str, method: &str, allow: &str) -> bool {
        let own = service.starts_with(OWN_PREFIX);
        if identity.node.is_some() && (own || !self.is_strict()) {
            return true;
        }
        if allow.split(',').any(|who| who.trim() == AUTHENTICATED || matches_who(who.trim(), identity)) {
            return true;
        }
        self.rules.iter().any(|rule| {
            (!own || rule.service.starts_with(OWN_PREFIX))
                && matches(&rule.service, service)
                && matches(&rule.method, method)
                && matches_who(&rule.who, identity)
        })
    }
}

impl fmt::Debug for Access {
    /// Keeps secrets out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("mutual", &self.mutual)
            .field("cluster", &self.cluster.as_ref().map(|_| "…"))
            .field("tokens", &self.tokens.len())
            .field("rules", &self.rules.len())
            .finish()
    }
}

/// Whom a token belongs to.
enum Owner {
    Caller(Arc<Identity>),
    /// Some node of the cluster: it says which.
    Cluster,
}

/// Turns credentials into identities, and decides which method an identity may call.
///
/// Every door asks it, once a call, before anything is decoded: links, HTTP, gRPC and MessagePack-RPC.
pub struct Guard {
    node: NodeId,
    access: RwLock<Arc<Access>>,
    on: AtomicBool,
    /// Counts the changes of `access`, for those who remember its answers.
    version: AtomicU64,
}

impl Guard {
    pub(crate) fn new(node: NodeId, access: Access) -> Self {
        Self {
            node,
            on: AtomicBool::new(access.is_on()),
            access: RwLock::new(Arc::new(access)),
            version: AtomicU64::new(0),
        }
    }

    /// Replaces the rules and the callers; links that are up keep their identity.
    pub fn set(&self, access: Access) {
        let on = access.is_on();
        *self.access.write() = Arc::new(access);
        self.on.store(on, Ordering::Release);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether callers are asked who they are. While this is false [`Guard::check`] allows everything.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Whether what no rule allows is refused.
    pub fn is_strict(&self) -> bool {
        self.access().is_strict()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read())
    }

    /// Whose token this is. The cluster's own token is that of a node, here of this one.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for a token that nobody owns.
    pub fn authenticate(&self, token: &str) -> Result<Arc<Identity>, Status> {
        self.owner_of(token, &self.node)
    }

    /// The same for a peer that says which node it is.
    pub(crate) fn owner_of(&self, token: &str, node: &NodeId) -> Result<Arc<Identity>, Status> {
        match self.access().owner(token) {
            Some(Owner::Caller(identity)) => Ok(identity),
            Some(Owner::Cluster) => Ok(Arc::new(Identity::node(node, IdentityKind::Token))),
            None => Err(Status::new(
                Code::Unauthenticated,
                format!(
                    "node {} knows nobody with this token: correct it, or add its SHA-256 to the file of \
                     `auth.tokens` there",
                    self.node
                ),
            )
            .executed(Executed::No)
            .stage(Stage::Admission)),
        }
    }

    /// Whether this caller may call `service/method`; `allow` is the method's own rule
    /// ([`MethodSpec::allow`](afflux_wire::contract::MethodSpec::allow)), empty when the method is not served here.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without an identity, `PERMISSION_DENIED` with one; both name the setting to change.
    pub fn check(
        &self,
        identity: Option<&Identity>,
        service: &str,
        method: &str,
        allow: &str,
    ) -> Result<(), Status> {
        if !self.is_on() || allow.split(',').any(|who| who.trim() == ANYONE) {
            return Ok(());
        }
        let access = self.access();
        let (code, text) = match identity {
            Some(identity) if access.permits(identity, service, method, allow) => return Ok(()),
            Some(identity) => {
                let who = match (&identity.node, identity.role()) {
                    (None, role) if !role.is_empty() => role,
                    _ => &identity.name,
                };
                (
                    Code::PermissionDenied,
                    format!(
                        "{identity} may not call {service}/{method} on node {}: add `{who} = {service}/{method}` to \
                         `auth.allow` there",
                        self.node
                    ),
                )
            }
            None => (
                Code::Unauthenticated,
                format!(
                    "node {} calls nobody in without an identity, and {service}/{method} was called without one: \
                     show a certificate (`tls.mode`) or a token (`token`)",
                    self.node
                ),
            ),
        };
        Err(Status::new(code, text).executed(Executed::No).stage(Stage::Admission).node(&self.node))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.access()).finish()
    }
}

/// The reason under which a refusal of [`Guard::check`] is counted.
pub(crate) fn reason(status: &Status) -> &'static str {
    if status.code == Code::Unauthenticated { "unauthenticated" } else { "forbidden" }
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '*' | '@' | ':')
}

/// `role/name`, or a name alone.
pub(crate) fn is_name(name: &str) -> bool {
    const NAME_BYTES_MAX: usize = 256;
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.split('/').count() <= 2
        && name.split('/').all(|part| !part.is_empty())
        && name.chars().all(|c| is_legal(c) && c != '*' && c != ':')
}

/// A pattern without `/` is a role or a whole name.
fn matches_who(pattern: &str, identity: &Identity) -> bool {
    !pattern.is_empty()
        && (matches(pattern, &identity.name)
            || (!pattern.contains('/') && pattern != "*" && matches(pattern, identity.role())))
}

/// Whether a text fits a pattern in which `*` stands for any run of letters.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood, and the text behind what it took so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Takes as long for a wrong first byte as for a wrong last one.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b))) == 0
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<Vec<u8>>>()?;
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(bytes)
}

/// The SHA-256 of a token in hexadecimal digits, as a file of tokens holds it.
///
/// ```
/// assert!(afflux_mesh::token_digest("password").starts_with("5e884898da"));
/// ```
pub fn token_digest(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(access: Access) -> Guard {
        Guard::new(NodeId::new("orders-1"), access)
    }

    fn token(access: Access, name: &str, token: &str) -> Access {
        access.token_digest(name, &token_digest(token)).unwrap()
    }

    fn who(name: &str) -> Identity {
        Identity::new(name, IdentityKind::Certificate)
    }

    #[test]
    fn while_authentication_is_off_everything_is_allowed() {
        let guard = guard(Access::default());
        assert!(!guard.is_on());
        assert!(guard.check(None, "afflux.worker", "Deploy", "").is_ok());
    }

    #[test]
    fn with_mutual_tls_nothing_is_allowed_that_no_rule_names() {
        let guard = guard(
            Access::default()
                .mutual(true)
                .allow("support=shop.orders/Get*")
                .and_then(|a| a.allow("node/billing-* = shop.orders"))
                .and_then(|a| a.allow("client/ops = *"))
                .unwrap(),
        );
        let allowed = |name: &str, service: &str, method: &str| {
            guard.check(Some(&who(name)), service, method, "").is_ok()
        };
        assert!(allowed("support/alice", "shop.orders", "GetAll"));
        assert!(!allowed("support/alice", "shop.orders", "Place"));
        assert!(!allowed("support/alice", "shop.order", "Get"));
        assert!(allowed("node/billing-7", "shop.orders", "Place"));
        assert!(!allowed("node/other", "shop.orders", "Place"), "a node needs a rule too");
        assert!(allowed("client/ops", "any.service", "Any"));
        assert!(!allowed("client/eve", "any.service", "Any"));
    }

    #[test]
    fn the_frameworks_own_services_are_for_nodes_and_for_whom_a_rule_names_them() {
        let access =
            Access::default().mutual(true).allow("* = *").unwrap().allow("admin = afflux.jobs/*").unwrap();
        let guard = guard(access);
        let allowed =
            |name: &str, service: &str| guard.check(Some(&who(name)), service, "Submit", "").is_ok();
        assert!(allowed("client/eve", "shop.orders"));
        assert!(!allowed("client/eve", "afflux.worker"), "`*` does not open the framework's own services");
        assert!(!allowed("client/eve", "afflux.jobs"));
        assert!(allowed("admin/bob", "afflux.jobs"));
        assert!(!allowed("admin/bob", "afflux.worker"));
        assert!(allowed("node/n1", "afflux.worker"));
    }

    #[test]
    fn a_method_says_itself_who_may_call_it() {
        let guard = guard(Access::default().mutual(true));
        let allowed =
            |who: Option<&Identity>, allow: &str| guard.check(who, "shop.orders", "Get", allow).is_ok();
        let alice = who("support/alice");
        assert!(allowed(Some(&alice), "billing, support"));
        assert!(allowed(Some(&alice), "support/al*"));
        assert!(!allowed(Some(&alice), "billing"));
        assert!(!allowed(Some(&alice), ""));
        assert!(allowed(Some(&alice), "authenticated"));
        assert!(!allowed(None, "authenticated"));
        assert!(allowed(None, "anyone"));
    }

    #[test]
    fn refusals_name_the_caller_the_method_and_the_setting() {
        let guard = guard(Access::default().mutual(true));
        let denied = guard.check(Some(&who("support/alice")), "shop.orders", "Get", "").unwrap_err();
        assert_eq!((denied.code, denied.was_executed()), (Code::PermissionDenied, Executed::No));
        for part in [
            "support/alice (by certificate)",
            "shop.orders/Get",
            "orders-1",
            "`support = shop.orders/Get`",
            "`auth.allow`",
        ] {
            assert!(denied.message.contains(part), "{part} is missing in: {denied}");
        }
        let unknown = guard.check(None, "shop.orders", "Get", "").unwrap_err();
        assert_eq!(unknown.code, Code::Unauthenticated);
        assert!(unknown.message.contains("orders-1") && unknown.message.contains("`token`"), "{unknown}");
        assert_eq!((reason(&denied), reason(&unknown)), ("forbidden", "unauthenticated"));
    }

    #[test]
    fn a_token_has_one_owner_and_a_wrong_one_none() {
        let access =
            token(Access::default(), "support/alice", "s3cret").cluster_token(Some("of-the-cluster"));
        let guard = guard(access);
        assert_eq!(&*guard.authenticate("s3cret").unwrap().name, "support/alice");
        let member = guard.owner_of("of-the-cluster", &NodeId::new("n2")).unwrap();
        assert_eq!((&*member.name, member.node.is_some()), ("node/n2", true));
        for wrong in ["", "s3cre", "S3cret", "s3cret "] {
            let error = guard.authenticate(wrong).unwrap_err();
            assert!(error.code == Code::Unauthenticated && !error.message.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn with_the_clusters_token_alone_its_owner_may_call_everything() {
        let guard = guard(Access::default().cluster_token(Some("t")));
        let member = guard.authenticate("t").unwrap();
        assert!(guard.is_on() && !guard.is_strict());
        assert!(guard.check(Some(&member), "shop.orders", "Get", "").is_ok());
        assert!(guard.check(None, "shop.orders", "Get", "").is_err());
    }

    #[test]
    fn tokens_are_read_from_lines_and_a_wrong_line_is_named() {
        let digest = token_digest("x");
        let access = Access::default().token_lines(&format!("# people\n\nsupport/alice:{digest}\n")).unwrap();
        assert_eq!(&*guard(access).authenticate("x").unwrap().name, "support/alice");
        for (text, part) in [
            ("\nsupport/alice", "line 2: expected role/name:sha256"),
            ("a/b/c:00", "line 1: `a/b/c` is no caller's name"),
            ("support/alice:00", "expected 64 hexadecimal digits, got 2"),
            (
                &format!("a/b:{digest}\nc/d:{digest}"),
                "line 2: the token of c/d belongs to another caller too",
            ),
        ] {
            let error = Access::default().token_lines(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_rule_without_two_sides_is_refused_with_an_example() {
        for rule in ["support", "= shop.orders", "support = ", "sup port = x", "a = b=c"] {
            let error = Access::default().allow(rule).unwrap_err();
            assert!(error.contains("WHO = SERVICE/METHOD") && error.contains(rule), "{error}");
        }
    }

    #[test]
    fn a_star_stands_for_any_run_of_letters() {
        for (pattern, text) in
            [("*", ""), ("a*", "a"), ("a*c", "abbc"), ("*b*", "abc"), ("a*b*c", "aXbYbZc"), ("abc", "abc")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", ""), ("a*c", "ab"), ("ab", "abc"), ("*x", "abc")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn new_rules_count_from_the_next_call_on() {
        let guard = guard(Access::default().mutual(true));
        let alice = who("support/alice");
        assert!(guard.check(Some(&alice), "s", "M", "").is_err());
        let before = guard.version();
        guard.set(Access::default().mutual(true).allow("support = s").unwrap());
        assert!(guard.check(Some(&alice), "s", "M", "").is_ok());
        assert_ne!(guard.version(), before);
    }
}
