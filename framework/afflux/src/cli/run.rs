//! `run`: a pipeline on a running cluster.

use std::cell::RefCell;

use super::args::{Global, RunArgs};
use super::output::{print_json, print_line};
use crate::app::App;
use crate::error::Result;
use crate::follow::{Followed, follow, how_far, outcome, request, submit};
use crate::progress::Show;
use crate::signals::Signals;

pub(crate) async fn run(app: &App, global: &Global, args: &RunArgs) -> Result<()> {
    let pipeline = app.pipeline_named(Some(&args.pipeline))?;
    let layers = global.layers()?;
    let client = super::connect(global, &args.cluster).await?;
    let jobs = client.jobs().await?;
    let mut request = request(&pipeline, &layers, args.parallelism, args.replay);
    request.restore = args.restore.clone();
    request.allow_orphaned_state = args.allow_orphaned_state;
    let job = submit(&jobs, request).await?;
    if let Some(restored) = job.restored.as_ref().filter(|_| !global.json) {
        eprintln!("state {restored}");
    }
    if args.detach {
        return if global.json { print_json(&job) } else { print_line(&job.id) };
    }
    let mut signals = Signals::catch()?;
    let latest = RefCell::new(job.clone());
    match follow(&jobs, job, &mut Show::new(), &mut signals, &latest).await? {
        Followed::Ended(job) => {
            let summary = outcome(&job)?;
            let text = if global.json { serde_json::to_string(&summary)? } else { summary.text() };
            print_line(&text)
        }
        Followed::Interrupted(signal, job) => {
            let id = &job.id;
            print_line(&format!("{signal}: job {id} runs on, {}; `cancel {id}` stops it", how_far(&job)))
        }
    }
}
