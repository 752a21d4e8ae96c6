//! What the page asks for beside its stream, and what it changes.

use actix_web::{HttpRequest, HttpResponse, web};
use afflux_wire::Status;
use afflux_wire::contract::Service;
use serde::Serialize;
use serde_json::{Value, json};

use super::Dashboard;
use super::door::{may_change, may_read};
use super::look::{Look, Looker};
use super::{flink, picture};
use crate::admin::failure;
use crate::error::{Error, suggest};
use crate::jobs::{Jobs, JobsClient};
use crate::node_service::NodeService;

/// Method, path below `/api/v1`, what it is.
pub(crate) const PAGES: [(&str, &str, &str); 15] = [
    ("get", "overview", "Nodes, slots and jobs in numbers, and how the cluster is in a sentence."),
    ("get", "stream", "A picture of the cluster a second, as Server-Sent Events."),
    ("get", "events", "What has happened to nodes and jobs, the newest last."),
    ("get", "settings", "The effective settings of this node, each with its origin; secrets are hidden."),
    ("get", "taskmanagers", "The nodes with their slots and tasks."),
    ("get", "jobs/overview", "Every job with its state and times."),
    ("get", "jobs/{job}/detail", "A job with the counts of each task, its checkpoints and its events."),
    ("get", "jobs/{job}/plan", "The chains of a job and the exchanges between them."),
    ("get", "jobs/{job}/checkpoints", "The latest checkpoints of a job, the newest first."),
    ("get", "jobs/{job}/why/{operator}", "What keeps an operator: watermark, pressure, hot keys."),
    ("post", "jobs/{job}/checkpoints", "Starts a checkpoint."),
    ("post", "jobs/{job}/savepoints", "Takes a checkpoint that is kept until somebody deletes it."),
    ("post", "jobs/{job}/rescale/{parallelism}", "Goes on with another number of parallel tasks."),
    ("post", "jobs/{job}/cancel", "Stops a job."),
    ("post", "nodes/{node}/drain", "Has a node hand over its tasks, answer its calls, and end."),
];

pub(super) fn routes(service: &mut web::ServiceConfig) {
    service
        .route("/api/v1/overview", web::get().to(overview))
        .route("/api/v1/events", web::get().to(events))
        .route("/api/v1/settings", web::get().to(settings))
        .route("/api/v1/taskmanagers", web::get().to(taskmanagers))
        .route("/api/v1/jobs/overview", web::get().to(jobs))
        .route("/api/v1/jobs/{job}/detail", web::get().to(detail))
        .route("/api/v1/jobs/{job}/plan", web::get().to(plan))
        .route("/api/v1/jobs/{job}/checkpoints", web::get().to(checkpoints))
        .route("/api/v1/jobs/{job}/why/{operator:.*}", web::get().to(why))
        .route("/api/v1/jobs/{job}/checkpoints", web::post().to(checkpoint))
        .route("/api/v1/jobs/{job}/savepoints", web::post().to(savepoint))
        .route("/api/v1/jobs/{job}/rescale/{parallelism}", web::post().to(rescale))
        .route("/api/v1/jobs/{job}/cancel", web::post().to(cancel))
        .route("/api/v1/nodes/{node}/drain", web::post().to(drain));
}

type Board = web::Data<Dashboard>;

fn answered(answer: Result<Value, Status>) -> HttpResponse {
    match answer {
        Ok(value) => HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(value),
        Err(status) => failure(&status),
    }
}

fn json(value: impl Serialize) -> Result<Value, Status> {
    serde_json::to_value(value).map_err(|error| Status::internal(error.to_string()))
}

impl Dashboard {
    fn readable(&self, request: &HttpRequest) -> Result<(), Status> {
        may_read(self.inner.client.mesh(), request)
    }

    async fn look(&self, request: &HttpRequest) -> Result<Look, Status> {
        self.readable(request)?;
        Ok(Looker::default().take(self).await)
    }

    async fn coordinator(&self) -> Result<JobsClient, Status> {
        self.inner.client.jobs().await.map_err(Error::into_status)
    }

    /// The coordinator, for somebody who may call this method of it.
    async fn changing(&self, request: &HttpRequest, method: &str) -> Result<(JobsClient, String), Status> {
        may_change(self.inner.client.mesh(), request, <Jobs as Service>::NAME, method)?;
        Ok((self.coordinator().await?, job(request)))
    }
}

fn job(request: &HttpRequest) -> String {
    request.match_info().query("job").to_owned()
}

async fn overview(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        let look = board.look(&request).await?;
        let health = picture::draw(None, &look, &board)["health"].clone();
        Ok(flink::overview(&look, health))
    };
    answered(of.await)
}

async fn events(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        let look = board.look(&request).await?;
        json(picture::events(&board.inner.log.all(), &look.jobs))
    };
    answered(of.await)
}

async fn settings(request: HttpRequest, board: Board) -> HttpResponse {
    answered(board.readable(&request).map(|()| board.inner.settings.clone()))
}

async fn taskmanagers(request: HttpRequest, board: Board) -> HttpResponse {
    answered(board.look(&request).await.map(|look| flink::taskmanagers(&look)))
}

async fn jobs(request: HttpRequest, board: Board) -> HttpResponse {
    answered(board.look(&request).await.map(|look| flink::jobs(&look)))
}

async fn detail(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        board.readable(&request)?;
        json(board.coordinator().await?.detail(job(&request)).await?)
    };
    answered(of.await)
}

async fn plan(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        board.readable(&request)?;
        Ok(flink::plan(&board.coordinator().await?.detail(job(&request)).await?))
    };
    answered(of.await)
}

async fn checkpoints(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        board.readable(&request)?;
        Ok(flink::checkpoints(&board.coordinator().await?.detail(job(&request)).await?))
    };
    answered(of.await)
}

async fn why(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        board.readable(&request)?;
        let operator = request.match_info().query("operator").to_owned();
        json(board.coordinator().await?.why(job(&request), operator).await?)
    };
    answered(of.await)
}

async fn checkpoint(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        let (jobs, job) = board.changing(&request, "Checkpoint").await?;
        json(jobs.checkpoint(job).await?)
    };
    answered(of.await)
}

async fn savepoint(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        let (jobs, job) = board.changing(&request, "Savepoint").await?;
        let kept = jobs.savepoint(job.clone()).await?;
        let location = format!("{job}/{}", kept.epoch);
        Ok(
            json!({ "status": { "id": "COMPLETED" }, "operation": { "location": location }, "checkpoint": kept }),
        )
    };
    answered(of.await)
}

async fn rescale(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        let text = request.match_info().query("parallelism");
        let parallelism = text.parse::<u32>().map_err(|_| {
            Status::invalid(format!("`{text}` is no number of parallel tasks: expected one from 1 to 1024"))
        })?;
        let (jobs, job) = board.changing(&request, "Rescale").await?;
        json(jobs.rescale(job, parallelism).await?)
    };
    answered(of.await)
}

async fn cancel(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        let (jobs, job) = board.changing(&request, "Cancel").await?;
        json(jobs.cancel(job).await?)
    };
    answered(of.await)
}

async fn drain(request: HttpRequest, board: Board) -> HttpResponse {
    let of = async {
        let client = &board.inner.client;
        may_change(client.mesh(), &request, <NodeService as Service>::NAME, "Drain")?;
        let name = request.match_info().query("node");
        let view = client.view().await.map_err(Error::into_status)?;
        let Some(instance) = view.instances.iter().find(|instance| instance.node.as_str() == name) else {
            let names = view.instances.iter().map(|instance| instance.node.as_str());
            return Err(Status::not_found(format!("no node `{name}`: {}", suggest(name, names))));
        };
        json(client.node(&instance.node).drain().await?)
    };
    answered(of.await)
}
