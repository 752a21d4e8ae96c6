use afflux::prelude::*;
use afflux::testing::TestCluster;
#[derive(Service)]
#[service(name = "flights.board", version = "1.0")]
pub enum DelayBoard {
    /// The latest closed hour of an airport.
    #[rpc(returns = u64, idempotent)]
    Latest { origin: String },
}
#[derive(Actor)]
#[actor(serves(DelayBoard))]
struct Board;
impl Board {
    fn open() -> Result<Self> {
        Ok(Self)
    }
}
impl DelayBoardHandler for Board {
    async fn latest(&mut self, _: &mut Cx, _: String) -> Result<u64, Fault<NoError>> {
        Ok(0)
    }
}
fn hourly_delays(_: &Flow) -> Result {
    Ok(())
}
async fn f() -> Result {
    //> here
    Ok(())
}
