//! The pipelines that this executable was built with.

use std::sync::Arc;

use afflux_stream::{Flow, JobSettings, Plan};
use afflux_wire::Status;

/// Builds a pipeline: pure, so that every node builds the same graph.
pub type Builder = Arc<dyn Fn(&Flow) -> afflux_stream::Result<()> + Send + Sync>;

/// Builders by name, the first of which is the default.
#[derive(Clone, Default)]
pub struct Pipelines {
    builders: Vec<(String, Builder)>,
}

impl Pipelines {
    /// Adds a builder; a later one of the same name replaces the earlier.
    pub fn add(&mut self, name: &str, builder: Builder) {
        self.builders.retain(|(known, _)| known != name);
        self.builders.push((name.to_owned(), builder));
    }

    /// The names, the default first.
    pub fn names(&self) -> Vec<&str> {
        self.builders.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Builds one for these settings.
    ///
    /// # Errors
    /// `NOT_FOUND` with the nearest name, or what the builder refuses.
    pub fn plan(&self, name: &str, settings: JobSettings) -> Result<Plan, Status> {
        let Some((_, builder)) = self.builders.iter().find(|(known, _)| known == name) else {
            let nearest = self
                .builders
                .iter()
                .map(|(known, _)| (strsim::jaro_winkler(known, name), known))
                .filter(|(likeness, _)| *likeness > 0.7)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match nearest {
                Some((_, known)) => format!("did you mean `{known}`?"),
                None if self.builders.is_empty() => "this program has no pipeline".to_owned(),
                None => format!("this program has {}", self.names().join(", ")),
            };
            return Err(Status::not_found(format!("no pipeline is named `{name}`; {hint}")));
        };
        Plan::build(name, settings, &**builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_pipeline_suggests_the_nearest() {
        let mut pipelines = Pipelines::default();
        pipelines.add("hourly-delays", Arc::new(|_| Ok(())));
        let error = pipelines.plan("hourly-delay", JobSettings::default()).err().unwrap().message;
        assert!(error.contains("did you mean `hourly-delays`?"), "{error}");
    }
}
