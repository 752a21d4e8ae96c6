//! How much is counted apart.

/// How much a process tells in its metrics: more series cost whoever stores them.
///
/// ```
/// use afflux_actor::Detail;
/// assert_eq!(Detail::of("debug"), Some(Detail::Debug));
/// assert!(Detail::of("all").is_none());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// The methods of a service are counted together, as `all`.
    Minimal,
    /// Each method by itself.
    #[default]
    Standard,
    /// Also the messages of each kind of actor.
    Debug,
}

impl Detail {
    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        [("minimal", Self::Minimal), ("standard", Self::Standard), ("debug", Self::Debug)]
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, detail)| detail)
    }

    /// The label that all methods share, where they are counted together.
    pub fn of_methods(self) -> Option<&'static str> {
        (self == Self::Minimal).then_some("all")
    }
}
