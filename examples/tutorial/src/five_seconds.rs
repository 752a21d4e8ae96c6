//! A source of one's own, and windows of five seconds over it.

use std::task::{Context, Poll};

use afflux::prelude::*;
use afflux::stream::{Batch, IoContext, JobSettings, ReadState, Source, Split, SplitReader};
use afflux::testing::RunBounded;

/// What a sensor said, twice a second.
#[derive(Event, Serialize, Deserialize, Clone, Debug)]
struct Reading {
    #[event(time)]
    at: Timestamp,
    sensor: String,
    celsius: i64,
}

/// Sensors, each a split: it is read by one task, and again from its position after a restart.
struct Sensors {
    names: Vec<String>,
    readings: u64,
}

impl Source for Sensors {
    type Item = Reading;

    fn splits(&self, _: &IoContext) -> afflux::stream::Result<Vec<Split>> {
        let split =
            |name: &String| Split { id: name.clone(), payload: Vec::new(), size: Some(self.readings) };
        Ok(self.names.iter().map(split).collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        _: &IoContext,
    ) -> afflux::stream::Result<Box<dyn SplitReader<Reading>>> {
        let next = match position {
            None => 0,
            Some(bytes) => u64::from_le_bytes(bytes.try_into().map_err(|_| {
                Status::invalid(format!("the position of sensor {} is not 8 bytes", split.id))
            })?),
        };
        Ok(Box::new(Sensor { name: split.id.clone(), next, end: self.readings }))
    }

    fn kind(&self) -> &'static str {
        "sensors"
    }
}

struct Sensor {
    name: String,
    next: u64,
    end: u64,
}

impl SplitReader<Reading> for Sensor {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<Reading>,
        rows_max: usize,
    ) -> Poll<afflux::stream::Result<ReadState>> {
        let until = self.end.min(self.next + rows_max as u64);
        batch.rows.extend((self.next..until).map(|i| Reading {
            at: Timestamp::from_millis(i as i64 * 500),
            sensor: self.name.clone(),
            celsius: 15 + (i % 7 + i / 10 * 2) as i64,
        }));
        self.next = until;
        Poll::Ready(Ok(if until == self.end { ReadState::End } else { ReadState::More }))
    }

    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }

    fn progress(&self) -> u64 {
        self.next
    }
}

pub(crate) async fn run() -> Result<()> {
    let flow = Flow::new("five-seconds", JobSettings { parallelism: 2, ..JobSettings::default() });
    let hottest = flow
        .source("sensors", Sensors { names: vec!["cellar".into(), "roof".into()], readings: 30 })
        .watermarks(BoundedOutOfOrder::by(secs(1)))
        .key_by(|r| r.sensor.clone())
        .window(Tumbling::of(secs(5)))
        .late(Late::Drop)
        .aggregate(
            "hottest",
            fold(
                || i64::MIN,
                |max, r: &Reading| *max = r.celsius.max(*max),
                |sensor: String, window: Window, max| (window.start, sensor, max),
            ),
        )
        .collect("out");
    flow.run_bounded().await?;

    println!("five seconds:");
    for (start, sensor, celsius) in hottest.take_sorted() {
        println!("  {start} {sensor} {celsius}");
    }
    Ok(())
}
