use afflux::prelude::*;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    customer: String,
}
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bill {
    number: String,
    customer: String,
}
impl Bill {
    fn of(order: Order) -> Self {
        Self { number: "7".to_owned(), customer: order.customer }
    }
}
//> here
