fn main() {
    use afflux::prelude::*;
    use afflux::keyed::KeyValue;
    #[derive(Service)]
    #[service(name = "bank.accounts", version = "1.0")]
    pub enum Accounts {
        /// Puts money in.
        #[rpc(returns = u64)]
        Deposit { customer: String, cents: u64 },
    }
    impl Account {
        fn open(_: String) -> Result<Self> {
            Ok(Account { cents: 0 })
        }
    }
    impl AccountsHandler for Account {
        async fn deposit(&mut self, _: &mut Cx, _customer: String, cents: u64) -> Result<u64, Fault<NoError>> {
            self.cents += cents;
            Ok(self.cents)
        }
    }
    //> here
    ;
}
