//! One list of promises, kept on every stage: by a sidecar that is another process, and by one in the process of its
//! clients.
//!
//! What a call of a registered handler comes to is promised by the executor inside one process as well, which has no
//! clients: a shorter list, kept by all who call.
//!
//! A further stage is a type with [`Stage`](stage::Stage) and one more line at the end.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod promises;
mod stage;

/// The list, as tests of a module of its own for each stage. A macro, so that each promise is a test that fails by name
/// and none can be left out on one stage.
macro_rules! keeps_every_promise {
    ($module:ident, $stage:ty) => {
        keeps_every_promise! { $module, $stage:
            // order
            tasks_of_a_lane_run_and_complete_in_the_order_of_their_submits,
            every_accepted_task_gets_exactly_one_completion,
            ids_never_repeat_however_often_a_lane_changes_hands,
            each_worker_has_handler_state_of_its_own,
            the_word_of_a_task_comes_back_with_its_completion,
            // outcome
            a_task_that_went_well_is_done_with_its_response,
            a_handler_that_fails_answers_with_its_code_and_its_text,
            a_handler_that_panics_answers_with_its_text_and_its_worker_serves_on,
            a_task_of_an_id_that_no_handler_has_is_malformed,
            a_payload_of_a_size_that_the_handler_does_not_take_is_malformed,
            a_payload_that_is_no_value_of_its_type_is_malformed,
            a_response_that_does_not_fit_says_what_length_it_wanted,
            // payload
            a_payload_of_any_length_arrives_and_comes_back_whole,
            a_payload_past_the_limit_is_handed_back_with_both_lengths,
            a_response_of_any_length_can_be_read_in_every_way,
            a_payload_made_in_place_arrives_as_it_was_left,
            // room
            a_full_lane_hands_the_task_back_and_loses_nothing,
            a_batch_is_accepted_up_to_the_room_there_is,
            submit_collecting_hands_over_in_order_what_it_takes_to_make_room,
            submit_collecting_that_gets_no_room_in_its_time_hands_the_task_back,
            dropped_tickets_give_their_slots_back_and_their_tasks_run,
            a_close_hands_over_everything_and_gives_the_lane_back,
            a_close_that_does_not_end_in_time_gives_the_client_back,
            a_dropped_client_leaves_tasks_that_run_and_a_lane_for_the_next,
            // ticket
            tickets_are_redeemed_in_any_order,
            tickets_and_plain_tasks_take_none_of_each_others_completions,
            a_ticket_is_good_until_it_is_taken_and_for_its_own_client,
            // contract
            a_call_answers_with_the_output_of_its_handler,
            a_call_by_another_contract_is_refused_with_both_and_submits_nothing,
            a_call_that_ends_otherwise_than_done_says_how,
            // time
            a_task_past_its_deadline_does_not_run_and_one_in_time_does,
            stamps_of_a_lane_follow_each_other,
        }
    };
    ($module:ident, $stage:ty: $($promise:ident,)+) => {
        mod $module {
            $(
                #[test]
                fn $promise() {
                    crate::promises::$promise::<$stage>(crate::stage::Stage::start());
                }
            )+
        }
    };
}

keeps_every_promise!(between_processes, crate::stage::BetweenProcesses);
keeps_every_promise!(in_one_process, crate::stage::InOneProcess);

// Only where lanes are files can a stranger write into them.
keeps_every_promise! { between_processes_in_files, crate::stage::BetweenProcesses:
    a_descriptor_that_no_client_of_ours_sends_is_malformed,
}
keeps_every_promise! { in_one_process_in_files, crate::stage::InOneProcess:
    a_descriptor_that_no_client_of_ours_sends_is_malformed,
}

/// The same for calls, by whoever makes them.
macro_rules! keeps_every_promise_of_a_call {
    ($module:ident, $caller:ty) => {
        keeps_every_promise_of_a_call! { $module, $caller:
            calls_of_one_thread_run_in_the_order_of_their_submits,
            every_call_ends_once_whatever_becomes_of_it,
            a_claim_that_is_dropped_leaves_a_call_that_runs,
            a_call_of_what_is_not_there_or_takes_another_payload_is_malformed_and_does_not_run,
            a_payload_of_any_length_comes_back_whole,
            a_response_up_to_the_limit_fits_and_a_longer_one_says_what_it_wanted,
            a_typed_call_answers_with_the_output_of_its_handler,
        }
    };
    ($module:ident, $caller:ty: $($promise:ident,)+) => {
        mod $module {
            $(
                #[test]
                fn $promise() {
                    crate::promises::$promise::<$caller>(crate::stage::Caller::start());
                }
            )+
        }
    };
}

keeps_every_promise_of_a_call!(calls_between_processes, crate::stage::OverLane<crate::stage::BetweenProcesses>);
keeps_every_promise_of_a_call!(calls_in_one_process, crate::stage::OverLane<crate::stage::InOneProcess>);
keeps_every_promise_of_a_call!(calls_embedded, crate::stage::Embedded);
