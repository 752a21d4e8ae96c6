use afflux::prelude::*;
#[derive(Service)]
#[service(name = "flights.board", version = "1.0")]
pub enum Board {
    /// Nothing.
    Ping,
}
#[derive(Actor)]
#[actor(serves(Board))]
struct DelayBoard;
impl DelayBoard {
    fn open() -> Result<Self> {
        Ok(Self)
    }
}
impl BoardHandler for DelayBoard {
    async fn ping(&mut self, _: &mut Cx) -> Result<(), Fault<NoError>> {
        Ok(())
    }
}
fn hourly_delays(_: &Flow) -> Result {
    Ok(())
}
async fn f() -> Result {
    //> here
}
