//! `why`: who holds an operator's watermark, where pressure begins, which keys are hot.

use std::time::Duration;

use super::args::{Global, WhyArgs};
use super::output::{print, print_json};
use crate::client::called;
use crate::contract::Code;
use crate::error::{Error, Result};

pub(crate) async fn why(global: &Global, args: &WhyArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let jobs = client.jobs().await?;
    let job = args.job.clone().unwrap_or_default();
    let ask = async || match jobs.why(job.clone(), args.operator.clone()).await {
        Err(error) if error.code() == Code::NotFound => Err(Error::usage(error.into_status().message)),
        answer => called(answer),
    };
    // The first answer is about the job's life, the second about the time between the two.
    let first = ask().await?;
    let why = if first.state == "running" {
        tokio::time::sleep(Duration::from_secs_f64(args.interval)).await;
        ask().await?
    } else {
        first
    };
    if global.json { print_json(&why) } else { print(&why.text()) }
}
