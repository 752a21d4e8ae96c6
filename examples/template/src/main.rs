//! To copy: a pipeline that counts words, and a service that it tells and that answers.
use afflux::stream::{Global, fold, generate};
use afflux::{App, prelude::*};

#[derive(Service)]
#[service(name = "template.words")]
enum Words {
    #[rpc(idempotent)]
    Counted { counts: Vec<(String, u64)> },
    #[rpc(returns = u64, idempotent)]
    Of { word: String },
}

#[derive(Actor, Default)]
#[actor(serves(Words))]
struct Book(std::collections::BTreeMap<String, u64>);

impl WordsHandler for Book {
    async fn counted(&mut self, _: &mut Cx, counts: Vec<(String, u64)>) -> Result<(), Fault> {
        self.0.extend(counts);
        Ok(())
    }
    async fn of(&mut self, _: &mut Cx, word: String) -> Result<u64, Fault> {
        Ok(self.0.get(&word).copied().unwrap_or(0))
    }
}

fn words(flow: &Flow) -> Result {
    let word = |i| ["water", "rises", "water", "flows"][i as usize % 4].to_owned();
    let words = flow.source("text", generate(300_000, word)).untimed().key_by(String::clone).window(Global);
    let count = fold(|| 0, |n, _: &String| *n += 1, |word, _, n| (word, n));
    words.aggregate("count", count).tell("book", |counts| WordsCounted { counts }).count("words");
    Ok(())
}

#[afflux::main]
async fn main() -> Result {
    let app = App::new("template").pipeline("words", words);
    app.singleton("book", || Ok::<_, Error>(Book::default())).run().await
}
