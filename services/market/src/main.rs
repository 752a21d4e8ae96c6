//! The process: `market` plays an hour on this machine and verifies what comes out, `market --help` says
//! what else there is.

use afflux::App;
use afflux_market::{AlertDesk, market, verify};

#[afflux::main]
async fn main() -> afflux::Result<()> {
    App::new("market")
        .pipeline("market", market)
        .verify("market", verify)
        .singleton("desk", AlertDesk::open)
        .run()
        .await
}
