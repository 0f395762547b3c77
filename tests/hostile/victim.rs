//! The victim: an honest producer that checks every completion it gets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use executor_client::{Client, Completion, InstanceName, Status, TaskDescriptor, TaskId, WaitError};
use executor_tests::FAIL_SAFE;
use fastrand::Rng;

use crate::board::{Board, Count};
use crate::sidecar::{BUFFER_BYTES, ECHO, SLOW, SUM};

/// A task that was accepted: its id, and the answer that must come.
type Expected = (TaskId, Vec<u8>);

/// Works beside the attackers until it is told to end; every task must end well.
pub(crate) fn endure(instance: &InstanceName, board: &Board) -> i32 {
    match work(instance, board) {
        Ok(()) => 0,
        Err(text) => {
            board.complain(&format!("victim: {text}"));
            1
        }
    }
}

fn work(instance: &InstanceName, board: &Board) -> Result<(), String> {
    let mut dice = Rng::with_seed(1);
    while !board.is_finishing() {
        let begun = Instant::now();
        let client = Client::connect_timeout(instance, FAIL_SAFE)
            .map_err(|error| format!("it did not connect within {:?}: {error}", begun.elapsed()))?;
        board.add(Count::Sessions, 1);
        let time = Duration::from_millis(dice.u64(50..1000));
        // Lanes must be to be had beside the attackers, again and again.
        session(client, board, &mut dice, time)?;
    }
    Ok(())
}

/// One lane from its first task to its last answer.
fn session(mut client: Client, board: &Board, dice: &mut Rng, time: Duration) -> Result<(), String> {
    let mut waiting: VecDeque<Expected> = VecDeque::new();
    let mut payload = Vec::new();
    let begun = Instant::now();
    let mut ended_at = begun;
    while !board.is_finishing() && begun.elapsed() < time {
        for _ in 0..dice.u32(1..=16) {
            let (handler, answer) = draw(dice, &mut payload);
            match client.try_submit(&TaskDescriptor::new(handler), &payload) {
                Ok(task_id) => {
                    waiting.push_back((task_id, answer));
                    board.add(Count::Accepted, 1);
                }
                Err(error) if error.is_full() => break,
                Err(error) => return Err(format!("a submit was refused: {error}")),
            }
        }
        let mut ended = 0;
        loop {
            match client.try_collect() {
                Ok(Some(completion)) => judge(board, &mut waiting, &completion)?,
                Ok(None) => break,
                Err(error) => return Err(format!("a completion cannot be collected: {error}")),
            }
            ended += 1;
        }
        if ended > 0 {
            ended_at = Instant::now();
            board.store(Count::VictimReady, 1);
        } else {
            std::thread::sleep(Duration::from_micros(dice.u64(0..200)));
        }
    }
    let mut wrong = None;
    let mut each = |completion: Completion<'_>| {
        if let Err(text) = judge(board, &mut waiting, &completion) {
            wrong = Some(text);
        }
    };
    loop {
        match client.close(FAIL_SAFE, &mut each) {
            Ok(()) => break,
            Err(error) if error.source == WaitError::ExecutorDown && ended_at.elapsed() < 2 * FAIL_SAFE => {
                client = *error.client;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(format!("a close ended: {error}")),
        }
    }
    match (wrong, waiting.len()) {
        (None, 0) => Ok(()),
        (Some(text), _) => Err(text),
        (None, left) => Err(format!("{left} tasks were not answered")),
    }
}

/// A task and the answer to it.
fn draw(dice: &mut Rng, payload: &mut Vec<u8>) -> (u32, Vec<u8>) {
    let length = if dice.bool() { dice.usize(0..=32) } else { dice.usize(0..=BUFFER_BYTES as usize) };
    payload.clear();
    payload.extend((0..length).map(|_| dice.u8(..)));
    match dice.u32(0..16) {
        0..8 => (ECHO, payload.clone()),
        8..15 => {
            let words = payload.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            });
            (SUM, words.fold(0, u64::wrapping_add).to_le_bytes().to_vec())
        }
        _ => (SLOW, payload.clone()),
    }
}

fn judge(board: &Board, waiting: &mut VecDeque<Expected>, completion: &Completion<'_>) -> Result<(), String> {
    let (task_id, answer) = waiting.pop_front().ok_or("a completion came that nobody waits for")?;
    let (status, found) = (completion.status(), completion.response().to_vec());
    if (completion.task_id(), status) != (task_id, Status::Done) || found != answer {
        return Err(format!("{task_id} ended as {status} with {found:02x?}, not done with {answer:02x?}"));
    }
    board.add(Count::Completed, 1);
    Ok(())
}
