//! Requests of variable size: a header with items behind it, and requests that are read where they lie.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail by panicking")]

use executor_client::bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};
use executor_client::{
    CallError, Client, ContractError, InstanceName, SliceSpec, Status, SubmitError, TaskDescriptor, TaskId, TaskSpec,
};
use executor_shm::core::status::Malformed;
use executor_shm::core::{Handler, Registry, TaskError};
use executor_shm::{Sidecar, SidecarHandle};

#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern)]
#[bytemuck(crate = "executor_client::bytemuck")]
#[repr(u8)]
enum Fold {
    Sum = 0,
    Greatest = 1,
}

/// A header shorter than an item's alignment, so that there is padding between them.
struct Folded;
impl SliceSpec for Folded {
    const ID: u32 = 1;
    const NAME: &'static str = "folded";
    const SCHEMA: u32 = 1;
    type Header = Fold;
    type Item = u64;
    type Output = [u64; 2];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[bytemuck(crate = "executor_client::bytemuck")]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Items aligned to more than the place where a short payload lies.
struct Lines;
impl SliceSpec for Lines {
    const ID: u32 = 2;
    const NAME: &'static str = "lines";
    const SCHEMA: u32 = 1;
    type Header = ();
    type Item = Line;
    type Output = u64;
}

/// The same id and name as [`Folded`], with items of half the size.
struct Halved;
impl SliceSpec for Halved {
    const ID: u32 = 1;
    const NAME: &'static str = "folded";
    const SCHEMA: u32 = 1;
    type Header = Fold;
    type Item = u32;
    type Output = [u64; 2];
}

/// The same again, without items.
struct Fixed;
impl TaskSpec for Fixed {
    const ID: u32 = 1;
    const NAME: &'static str = "folded";
    const SCHEMA: u32 = 1;
    type Args = Fold;
    type Output = [u64; 2];
}

const PEEK: TaskDescriptor = TaskDescriptor::new(3);

fn start(of: &str) -> (SidecarHandle, Client) {
    let instance = InstanceName::new(&format!("slices-{of}-{}", std::process::id())).unwrap();
    let mut registry = Registry::builder();
    registry.slice::<Folded>(|_, fold, items| {
        let folded = match fold {
            Fold::Sum => items.iter().sum(),
            Fold::Greatest => *items.iter().max().ok_or_else(|| TaskError::new("nothing to choose from"))?,
        };
        Ok([items.len() as u64, folded])
    });
    registry.slice::<Lines>(|_, (), lines| Ok(lines.iter().flat_map(|line| line.0).map(u64::from).sum()));
    registry.add(Handler::in_place(3, "peek", |_, request, response| {
        response.write_value(&u64::from(request.is_shared()));
        response.write_value(&request.fold_words(0, u64::wrapping_add));
        response.write_value(&(request.len() as u64));
        Ok(())
    }));
    let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap());
    let sidecar = builder.pinned(false).capacity(16).start().unwrap();
    let client = Client::connect(&instance).unwrap();
    (sidecar, client)
}

fn status_of(client: &mut Client, payload: &[u8]) -> Status {
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(Folded::ID), payload).unwrap();
    client.wait(&mut ticket).unwrap().status()
}

#[test]
fn any_number_of_items_that_fits_reaches_the_handler_in_order() {
    let (_sidecar, mut client) = start("items");
    let all: Vec<u64> = (1..=31).map(|item| item * item).collect();
    for count in 0..=31 {
        let items = &all[..count];
        let answer = client.call_slice::<Folded>(&Fold::Sum, items).unwrap();
        assert_eq!(answer, [count as u64, items.iter().sum()], "{count} items");
    }
    assert_eq!(client.call_slice::<Folded>(&Fold::Greatest, &[4, 9, 2]).unwrap(), [3, 9]);
    let nothing = client.call_slice::<Folded>(&Fold::Greatest, &[]).unwrap_err();
    assert!(matches!(nothing, CallError::Failed(failure) if failure.text == "nothing to choose from"));
    for count in 0..=4 {
        assert_eq!(client.call_slice::<Lines>(&(), &vec![Line([2; 64]); count]).unwrap(), count as u64 * 128);
    }
}

#[test]
fn tasks_with_items_are_collected_in_order_like_any_other() {
    let (_sidecar, mut client) = start("collected");
    let ids: Vec<TaskId> =
        (0..4).map(|item| client.try_submit_slice::<Folded>(&Fold::Sum, &[item, 1]).unwrap()).collect();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match client.try_collect().unwrap() {
            Some(completion) => {
                assert_eq!(completion.response().read::<[u64; 2]>(), Some([2, seen.len() as u64 + 1]));
                seen.push(completion.task_id());
            }
            None => std::thread::yield_now(),
        }
    }
    assert_eq!(seen, ids);
}

#[test]
fn items_past_the_request_buffer_are_refused_with_both_lengths_and_submit_nothing() {
    let (sidecar, mut client) = start("too-long");
    let error = client.call_slice::<Folded>(&Fold::Sum, &[0; 32]).unwrap_err();
    let CallError::Submit(SubmitError::TooLong { length, limit, .. }) = error else { panic!("{error}") };
    assert_eq!((length, limit), (264, 256));
    assert_eq!(client.try_submit_slice::<Folded>(&Fold::Sum, &[0; 32]).unwrap_err(), error);
    assert_eq!(sidecar.stats().tasks, 0);
}

#[test]
fn a_payload_that_is_no_header_with_whole_items_never_reaches_the_handler() {
    let (_sidecar, mut client) = start("malformed");
    for length in [0, 1, 7, 9, 15, 17, 33, 255] {
        let status = status_of(&mut client, &vec![0; length]);
        assert_eq!(status, Status::Malformed(Malformed::WrongSize), "{length} bytes");
    }
    let mut payload = [0; 16];
    payload[0] = 2;
    assert_eq!(status_of(&mut client, &payload), Status::Malformed(Malformed::BadValue));
    payload[0] = 1;
    assert_eq!(status_of(&mut client, &payload), Status::Done);
}

#[test]
fn a_contract_with_other_items_or_none_is_refused_before_anything_is_submitted() {
    let (sidecar, mut client) = start("contract");
    let halved = client.call_slice::<Halved>(&Fold::Sum, &[1]).unwrap_err();
    let fixed = client.call::<Fixed>(&Fold::Sum).unwrap_err();
    for error in [halved, fixed] {
        assert!(matches!(error, CallError::Contract(ContractError::Different { id: 1, .. })), "{error}");
    }
    client.check_slice_contract::<Folded>().unwrap();
    assert_eq!(sidecar.stats().tasks, 0);
}

#[test]
fn a_request_read_in_place_lies_in_shared_memory_once_it_is_too_long_for_the_descriptor() {
    let (_sidecar, mut client) = start("in-place");
    let payload: Vec<u8> = (1..=255).chain([255]).collect();
    for length in [0, 1, 8, 31, 32, 33, 64, 250, 256] {
        let payload = &payload[..length];
        let mut ticket = client.submit_ticket(&PEEK, payload).unwrap();
        let answer = client.wait(&mut ticket).unwrap().response().read::<[u64; 3]>().unwrap();
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        let sum = payload.chunks(8).map(word).fold(0, u64::wrapping_add);
        assert_eq!(answer, [u64::from(length > 32), sum, length as u64], "{length} bytes");
    }
}
