//! The two directions of one side of a stream, without their locks.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use afflux_wire::contract::{Block, EncodeItem, ItemForm, ROWS_TAG};
use afflux_wire::limits::item_credits;
use afflux_wire::{Code, Status};
use bytes::Bytes;

use super::body::Body;

/// A packet this long takes no further item.
const PACKET_BYTES: usize = 32 << 10;
/// A packet's buffer that grew beyond this is given back to the allocator.
const SPARE_BYTES_MAX: usize = 128 << 10;

/// Items that become one frame.
pub(super) struct Packet {
    pub(super) items: Vec<u8>,
    pub(super) count: u32,
    cost: u64,
    form: ItemForm,
}

/// What this side sends.
pub(super) struct Sending {
    pub(super) packets: VecDeque<Packet>,
    spare: Vec<u8>,
    /// How items are written: rows where the other side is of the same build and their type can be one.
    form: ItemForm,
    credits: u64,
    window: u64,
    /// Credit that the item which found none needs.
    wanted: u64,
    /// Items in frames so far.
    seq: u64,
    /// Who has to leave before the items end well: the sending end, and the handler.
    pub(super) parties: u8,
    /// What the handler returned.
    pub(super) result: Bytes,
    pub(super) end: Option<Result<Bytes, Status>>,
    pub(super) end_sent: bool,
    pub(super) stopped: Option<Status>,
    /// Whether its turn is waited for.
    pub(super) queued: bool,
    /// A packet or an end that is under way in parts.
    pub(super) body: Option<Body>,
    waker: Option<Waker>,
    watcher: Option<Waker>,
}

pub(super) fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(known) if known.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

impl Sending {
    pub(super) fn new(window: u64, parties: u8, form: ItemForm) -> Self {
        Self {
            packets: VecDeque::new(),
            spare: Vec::new(),
            form,
            credits: window.max(1),
            window: window.max(1),
            wanted: 1,
            seq: 0,
            parties,
            result: Bytes::new(),
            end: None,
            end_sent: false,
            stopped: None,
            queued: false,
            body: None,
            waker: None,
            watcher: None,
        }
    }

    /// Appends an item; false when there is no credit for it.
    pub(super) fn put(&mut self, bytes_max: usize, encode: EncodeItem<'_>) -> Result<bool, Status> {
        if let Some(status) = &self.stopped {
            return Err(status.clone());
        }
        if self.end.is_some() {
            return Err(Status::precondition("the stream has ended: no item can be sent behind its end"));
        }
        if self.credits == 0 {
            self.wanted = 1;
            return Ok(false);
        }
        let form = self.form;
        if self.packets.back().is_none_or(|packet| packet.items.len() >= PACKET_BYTES || packet.form != form)
        {
            let mut items = std::mem::take(&mut self.spare);
            if form == ItemForm::Row {
                items.push(ROWS_TAG);
            }
            self.packets.push_back(Packet { items, form, count: 0, cost: 0 });
        }
        let Some(packet) = self.packets.back_mut() else { return Ok(false) };
        let before = packet.items.len();
        let mut result = encode(&mut packet.items, form);
        if form == ItemForm::Row && (result.is_err() || packet.items.len() == before) {
            // The type has a part that no row can carry, or takes no bytes at all, which no frame may claim.
            packet.items.truncate(before);
            self.form = ItemForm::Named;
            self.drop_empty_packet();
            return self.put(bytes_max, encode);
        }
        let bytes = packet.items.len() - before;
        if result.is_ok() && bytes > bytes_max {
            result = Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "an item of {bytes} bytes is above the message_bytes_max of the other side, which is \
                     {bytes_max}: send smaller items, or raise it there"
                ),
            ));
        }
        let cost = item_credits(u64::from(packet.count) + 1, packet.items.len(), self.window);
        let more = cost - packet.cost;
        if result.is_err() || more > self.credits {
            packet.items.truncate(before);
            self.drop_empty_packet();
            self.wanted = more;
            return result.map(|()| false);
        }
        packet.count += 1;
        packet.cost = cost;
        self.credits -= more;
        Ok(true)
    }

    fn drop_empty_packet(&mut self) {
        if self.packets.back().is_some_and(|packet| packet.count == 0)
            && let Some(packet) = self.packets.pop_back()
        {
            self.keep_buffer(packet.items);
        }
    }

    /// Takes the first packet, with the number of its first item.
    pub(super) fn take_packet(&mut self) -> Option<(u64, Packet)> {
        let packet = self.packets.pop_front()?;
        let first = self.seq + 1;
        self.seq += u64::from(packet.count);
        Some((first, packet))
    }

    /// Keeps the buffer of a packet for the next.
    pub(super) fn keep_buffer(&mut self, mut items: Vec<u8>) {
        if items.capacity() > self.spare.capacity() && items.capacity() <= SPARE_BYTES_MAX {
            items.clear();
            self.spare = items;
        }
    }

    pub(super) fn credited(&mut self, credits: u64) -> Option<Waker> {
        self.credits = self.credits.saturating_add(credits).min(self.window);
        if self.credits >= self.wanted { self.waker.take() } else { None }
    }

    pub(super) fn poll_ready(&mut self, cx: &Context<'_>) -> Option<Result<(), Status>> {
        if let Some(status) = &self.stopped {
            return Some(Err(status.clone()));
        }
        if self.end.is_some() {
            return Some(Err(Status::precondition("the stream has ended")));
        }
        if self.credits >= self.wanted {
            self.wanted = 1;
            return Some(Ok(()));
        }
        keep(&mut self.waker, cx);
        None
    }

    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        keep(&mut self.watcher, cx);
    }

    /// Nobody takes items any more; those that wait are dropped.
    pub(super) fn stop(&mut self, status: &Status) -> [Option<Waker>; 2] {
        self.stopped.get_or_insert_with(|| status.clone());
        self.packets.clear();
        [self.waker.take(), self.watcher.take()]
    }

    /// One of those who can end the items well has left; true when it was the last.
    pub(super) fn leave(&mut self) -> bool {
        self.parties = self.parties.saturating_sub(1);
        self.parties == 0 && self.end(Ok(self.result.clone()))
    }

    /// The end, unless there was one.
    pub(super) fn end(&mut self, result: Result<Bytes, Status>) -> bool {
        if self.end.is_some() {
            return false;
        }
        self.end = Some(result);
        true
    }

    pub(super) fn has_work(&self) -> bool {
        self.body.is_some()
            || !self.packets.is_empty()
            || (self.end.is_some() && !self.end_sent && self.stopped.is_none())
    }
}

/// What the other side sends.
pub(super) struct Receiving {
    blocks: VecDeque<Block>,
    /// Credit that the other side has.
    room: u64,
    window: u64,
    /// Credit of items that were used, not given back yet.
    used: u64,
    seq: u64,
    pub(super) end: Option<Result<(), Status>>,
    pub(super) stopped: bool,
    waker: Option<Waker>,
}

/// What became of items that came.
pub(super) enum Came {
    Queued(Option<Waker>),
    /// Nobody takes them.
    Dropped,
    /// The other side broke the protocol: the word is the metric's reason.
    Wrong(&'static str, String),
}

impl Receiving {
    pub(super) fn new(window: u64) -> Self {
        let window = window.max(1);
        Self {
            blocks: VecDeque::new(),
            room: window,
            window,
            used: 0,
            seq: 0,
            end: None,
            stopped: false,
            waker: None,
        }
    }

    pub(super) fn came(&mut self, first_seq: u64, count: u32, items: Bytes) -> Came {
        if first_seq != self.seq + 1 {
            return Came::Wrong("gap", format!("item {first_seq} follows item {}", self.seq));
        }
        self.seq += u64::from(count);
        let credits = item_credits(u64::from(count), items.len(), self.window);
        if credits > self.room {
            let text = format!(
                "{count} items of {} bytes cost {credits} credits, {} are left",
                items.len(),
                self.room
            );
            return Came::Wrong("credit", text);
        }
        self.room -= credits;
        if self.stopped || self.end.is_some() {
            return Came::Dropped;
        }
        self.blocks.push_back(Block { count, credits, items });
        Came::Queued(self.waker.take())
    }

    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Option<Option<Result<Block, Status>>> {
        if let Some(block) = self.blocks.pop_front() {
            return Some(Some(Ok(block)));
        }
        match &mut self.end {
            Some(Ok(())) => Some(None),
            Some(end) => match std::mem::replace(end, Ok(())) {
                Err(status) => Some(Some(Err(status))),
                Ok(()) => Some(None),
            },
            None => {
                keep(&mut self.waker, cx);
                None
            }
        }
    }

    /// Items were used; the credit to give back, if it is enough to be worth a frame.
    pub(super) fn used(&mut self, credits: u64) -> Option<u64> {
        self.used += credits;
        if self.end.is_some() || self.stopped || self.used * 2 < self.window {
            return None;
        }
        let back = std::mem::take(&mut self.used);
        self.room = (self.room + back).min(self.window);
        Some(back)
    }

    /// No further item comes.
    pub(super) fn end(&mut self, result: Result<(), Status>) -> Option<Waker> {
        if self.end.is_none() {
            self.end = Some(result);
        }
        self.waker.take()
    }

    /// Nobody takes the items that wait.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.blocks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sending: &mut Sending, item: &[u8]) -> Result<bool, Status> {
        sending.put(1 << 20, &mut |buf, _| {
            buf.extend_from_slice(item);
            Ok(())
        })
    }

    #[test]
    fn small_items_share_a_packet_until_there_is_no_credit() {
        let mut sending = Sending::new(4, 1, ItemForm::Named);
        for n in 0..4u8 {
            assert!(put(&mut sending, &[n]).unwrap());
        }
        assert!(!put(&mut sending, &[9]).unwrap());
        let (first, packet) = sending.take_packet().unwrap();
        assert_eq!((first, packet.count, packet.items.as_slice()), (1, 4, &[0, 1, 2, 3][..]));
        assert!(sending.take_packet().is_none());
        sending.credited(2);
        assert!(put(&mut sending, &[4]).unwrap());
        assert_eq!(sending.take_packet().unwrap().0, 5);
    }

    #[test]
    fn a_large_item_costs_more_and_never_more_than_half_the_window() {
        let mut sending = Sending::new(4, 1, ItemForm::Named);
        for n in 0..3 {
            assert!(put(&mut sending, &[n]).unwrap());
        }
        let _ = sending.take_packet();
        assert!(!put(&mut sending, &[0; 100_000]).unwrap());
        // The other side has used two, which it gives back at once.
        sending.credited(2);
        assert!(put(&mut sending, &[0; 100_000]).unwrap());
        assert_eq!(sending.credits, 1);
    }

    #[test]
    fn both_sides_count_the_same_credit() {
        let (mut sending, mut receiving) = (Sending::new(16, 1, ItemForm::Named), Receiving::new(16));
        let sizes = [1usize, 5_000, 3, 9_000, 1, 1, 40_000, 2];
        let mut sent = 0;
        for size in sizes.iter().cycle().take(200) {
            while !put(&mut sending, &vec![0; *size]).unwrap() {
                while let Some((first, packet)) = sending.take_packet() {
                    let came = receiving.came(first, packet.count, packet.items.into());
                    assert!(matches!(came, Came::Queued(_)));
                }
                let mut cost = 0;
                while let Some(block) = receiving.blocks.pop_front() {
                    cost += block.credits;
                    sent += block.count;
                }
                if let Some(back) = receiving.used(cost) {
                    sending.credited(back);
                }
            }
        }
        assert!(sent > 150);
    }

    #[test]
    fn rows_are_marked_and_a_type_that_cannot_be_one_goes_by_name_from_then_on() {
        let mut sending = Sending::new(16, 1, ItemForm::Row);
        let mut item = |number: u8, can_be_row: bool| {
            sending.put(100, &mut |buf, form| match form {
                ItemForm::Row if !can_be_row => Err(Status::invalid("untagged")),
                ItemForm::Row => {
                    buf.push(number);
                    Ok(())
                }
                ItemForm::Named => {
                    buf.extend([0x90, number]);
                    Ok(())
                }
            })
        };
        assert!(item(1, true).unwrap() && item(2, true).unwrap() && item(3, false).unwrap());
        assert!(item(4, true).unwrap());
        let packets: Vec<_> = std::iter::from_fn(|| sending.take_packet())
            .map(|(first, packet)| (first, packet.count, packet.items))
            .collect();
        assert_eq!(packets, [(1, 2, vec![ROWS_TAG, 1, 2]), (3, 2, vec![0x90, 3, 0x90, 4])]);
    }

    #[test]
    fn a_gap_and_an_overdraft_are_wrong() {
        let mut receiving = Receiving::new(2);
        assert!(matches!(receiving.came(2, 1, Bytes::from_static(&[1])), Came::Wrong("gap", _)));
        let mut receiving = Receiving::new(2);
        let large = || Bytes::from(vec![0; 100_000]);
        assert!(matches!(receiving.came(1, 1, large()), Came::Queued(_)));
        assert!(matches!(receiving.came(2, 1, large()), Came::Queued(_)));
        assert!(matches!(receiving.came(3, 1, Bytes::from_static(&[1])), Came::Wrong("credit", _)));
        let three = Bytes::from_static(&[1, 2, 3]);
        assert!(matches!(Receiving::new(2).came(1, 3, three), Came::Wrong("credit", _)));
    }

    #[test]
    fn the_items_end_well_when_both_the_handler_and_the_sending_end_have_left() {
        let mut sending = Sending::new(2, 2, ItemForm::Named);
        assert!(!sending.leave());
        assert!(sending.leave());
        assert_eq!(sending.end, Some(Ok(Bytes::new())));
        assert!(!sending.end(Err(Status::internal("late"))));
    }
}
