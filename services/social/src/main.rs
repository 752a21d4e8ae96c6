//! The process: `social` plays an evening on this machine and verifies what comes out, `social --help` says
//! what else there is.

use afflux::App;
use afflux_social::{GuideDesk, social, verify};

#[afflux::main]
async fn main() -> afflux::Result<()> {
    App::new("social")
        .pipeline("social", social)
        .verify("social", verify)
        .singleton("guide", GuideDesk::open)
        .run()
        .await
}
