//! The first jobs of the book, each a file; all run one after the other.

use afflux::prelude::*;

mod count_window;
mod doubled;
mod five_seconds;
mod plus_one;
mod words;

#[afflux::main]
async fn main() -> Result<()> {
    plus_one::run().await?;
    count_window::run().await?;
    doubled::run().await?;
    words::run().await?;
    five_seconds::run().await
}
