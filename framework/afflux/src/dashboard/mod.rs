//! The dashboard: a page on the admin port, and the data behind it.
//!
//! [`files`] is what a browser loads, part of the binary; [`feed`] is the stream that it draws, a picture a second, made
//! once for all who look on; [`picture`] makes one from two looks at the cluster, with [`tiles`] of what services answer; [`log`] remembers what has happened;
//! [`api`] is the rest below `/api/v1`; [`door`] decides who may read and who may change.

mod api;
mod counters;
mod door;
mod feed;
mod files;
mod flink;
mod log;
mod look;
mod picture;
mod tiles;

use std::sync::Arc;

use actix_web::web;
use afflux_actor::{Clock, Place};
use serde_json::Value;

use crate::client::Client;

pub(crate) use api::PAGES;
pub(crate) use door::may_read;
use feed::Feed;
use log::EventLog;
pub(crate) use tiles::Tile;

/// What the dashboard of a node shows.
#[derive(Clone)]
pub(crate) struct Dashboard {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    clock: Clock,
    log: Arc<EventLog>,
    feed: Feed,
    /// Settings with their origins, secrets hidden; null where nobody has told them.
    settings: Value,
    /// Pipelines of this program.
    pipelines: Vec<String>,
    /// Figures of its services.
    tiles: Vec<Tile>,
    cluster: String,
    build: String,
}

/// What a dashboard is made of.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    pub(crate) settings: Value,
    pub(crate) pipelines: Vec<String>,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) cluster: String,
    pub(crate) build: String,
}

impl Dashboard {
    /// Begins to remember what happens in the cluster; everything else waits until somebody looks.
    pub(crate) fn open(parts: Parts, place: &Place) -> Self {
        let Parts { client, clock, settings, pipelines, tiles, cluster, build } = parts;
        let log = EventLog::following(&client, &clock, place);
        let feed = Feed::default();
        let inner = Inner { client, clock, log, feed, settings, pipelines, tiles, cluster, build };
        Self { inner: Arc::new(inner) }
    }
}

/// The routes of the dashboard, in front of the pages of `/api/v1`.
pub(crate) fn routes(service: &mut web::ServiceConfig) {
    service
        .route("/", web::get().to(files::index))
        .route("/assets/{version}/{name:.*}", web::get().to(files::asset))
        .route("/api/v1/stream", web::get().to(feed::stream));
    api::routes(service);
}
