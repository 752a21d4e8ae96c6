use afflux::prelude::*;

#[derive(Operator)]
#[operator(input = u64, output = u64, key = String)]
struct Sum {
    #[state]
    sum: u64,
    #[state(ttl = "soon")]
    last: u64,
}

#[derive(Operator)]
#[operator(input = u64, output = u64, key = String)]
struct Count {
    #[state]
    count: u64,
}

impl Process for Count {
    fn process(&mut self, _: u64, _: &mut OperatorCx<'_, String>, _: &mut Output<u64>) -> afflux::stream::Result<()> {
        Ok(())
    }
}

fn main() {}
