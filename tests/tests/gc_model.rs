//! The protocol of writers, readers and garbage collection, explored state by state.
//!
//! Runs that must hold come in two sizes: small ones for every day, and those of `SALVOR_SOAK=1`,
//! which take hours and up to 10 GB. `cargo test --release -p tests --test gc_model -- --nocapture`
//! prints what was explored.

use std::time::Instant;

use tests::model::Action::{self, *};
use tests::model::Kind::{Backup, Merge, Parted, Read, Repack as Repacker};
use tests::model::{Kind, Outcome, Report, Rule, Setup, Transitions, Verdict, explore};

/// States of a run that is not meant to see everything.
const BOUND: usize = 700_000;
/// The same for a soak.
const BOUND_SOAK: usize = 150_000_000;
/// More than any run that is meant to see everything has.
const WHOLE: usize = 6_000_000;

const WRITER: &[(Kind, usize)] = &[(Backup, 1)];
const WRITERS: &[(Kind, usize)] = &[(Backup, 1), (Backup, 1)];
const CHAIN: &[(Kind, usize)] = &[(Backup, 2)];
const CHAIN_AND_WRITER: &[(Kind, usize)] = &[(Backup, 2), (Backup, 1)];
const PARTED: &[(Kind, usize)] = &[(Parted, 2)];
const PARTED_AND_WRITER: &[(Kind, usize)] = &[(Parted, 2), (Backup, 1)];
const READER: &[(Kind, usize)] = &[(Read, 1)];
const READER_AND_WRITER: &[(Kind, usize)] = &[(Read, 1), (Backup, 1)];
const MERGER: &[(Kind, usize)] = &[(Merge, 1)];
const MERGERS: &[(Kind, usize)] = &[(Merge, 1), (Merge, 1)];
const MERGER_AND_WRITER: &[(Kind, usize)] = &[(Backup, 1), (Merge, 1)];
const REPACKER_AND_WRITER: &[(Kind, usize)] = &[(Backup, 1), (Repacker, 1)];

/// What counter-examples do not need, so that runs that look for them stay small.
const NO_LITTER: &[Action] = &[
    LateCommit,
    Repack,
    SweepOrphan,
    SweepSegment,
    CleanStray,
    VerdictRescue,
    Undie,
    DropFolded,
    ChooseUpload,
];
const NO_ENDING: &[Action] = &[
    LateCommit,
    Repack,
    SweepOrphan,
    SweepSegment,
    CleanStray,
    VerdictRescue,
    Undie,
    DropFolded,
    ChooseUpload,
    Fence,
    CleanSession,
    CleanCommit,
];
const NO_STRAYS: &[Action] = &[CleanStray];

fn plain(versions: u8) -> Setup {
    Setup::new(WRITER, 1, versions)
}

fn of(agents: &'static [(Kind, usize)], versions: u8) -> Setup {
    Setup { uses_unfolded: false, ..Setup::new(agents, 1, versions) }
}

fn segments(agents: &'static [(Kind, usize)], versions: u8) -> Setup {
    Setup { segments: true, ..of(agents, versions) }
}

fn incremental(setup: Setup) -> Setup {
    Setup { verdict: Verdict::Incremental, ..setup }
}

fn combined(setup: Setup) -> Setup {
    Setup { transitions: Transitions::Combined, ..setup }
}

fn beside(setup: Setup, maintainers: usize) -> Setup {
    Setup { maintainers, ..setup }
}

fn soak() -> bool {
    std::env::var_os("SALVOR_SOAK").is_some_and(|value| value == "1")
}

fn run(name: &str, setup: &Setup, limit: usize) -> Report {
    let began = Instant::now();
    let report = explore(setup, limit);
    println!("{name}: {report} ({:.1} s)", began.elapsed().as_secs_f64());
    report
}

/// Every state of the run keeps every promise.
fn holds(name: &str, setup: Setup) -> Report {
    let report = run(name, &setup, WHOLE);
    assert_eq!(report.outcome, Outcome::Exhausted, "{name}: {report}");
    report
}

/// Every state reached within the bound keeps every promise.
fn holds_so_far(name: &str, setup: Setup, limit: usize) {
    let report = run(name, &setup, limit);
    assert_eq!(report.counter_example(), None, "{name}: {report}");
}

#[test]
fn one_writer_beside_one_maintainer_keeps_every_promise() {
    holds("1x1", plain(8));
}

#[test]
fn a_verdict_on_what_is_new_since_the_condemnation_is_enough() {
    holds("1x1, incremental", incremental(plain(8)));
}

#[test]
fn any_number_of_decisions_may_share_a_catalog_version() {
    holds("1x1, combined", combined(plain(3)));
    holds("1x1, combined, incremental", incremental(combined(plain(3))));
}

#[test]
fn several_writers_or_maintainers_keep_every_promise() {
    let setups = [
        ("1x2", beside(plain(8), 2)),
        ("2x1", Setup::new(WRITERS, 1, 7)),
        ("2x1, paged lists", Setup { paged_lists: true, ..Setup::new(WRITERS, 1, 7) }),
        ("2x1, combined", combined(Setup::new(WRITERS, 1, 4))),
    ];
    for (name, setup) in setups {
        holds_so_far(name, incremental(setup), BOUND);
    }
}

#[test]
fn packs_of_several_chunks_keep_every_promise() {
    holds("two chunks", Setup { chunks: 2, ..incremental(plain(5)) });
}

#[test]
fn repacks_in_sessions_of_their_own_keep_every_promise() {
    let setup = incremental(Setup::new(REPACKER_AND_WRITER, 1, 5)).off(&[Repack]);
    holds_so_far("repack", setup, BOUND);
}

#[test]
fn chains_of_checkpoints_keep_every_promise() {
    holds("chain", incremental(of(CHAIN, 3)));
    holds_so_far("chain, longer", incremental(of(CHAIN, 7)), BOUND);
    holds_so_far("chain, beside a writer", combined(of(CHAIN_AND_WRITER, 4)), BOUND / 2);
}

#[test]
fn checkpoints_as_parts_of_an_open_session_keep_every_promise() {
    holds("parts", incremental(of(PARTED, 4)));
    holds_so_far("parts, longer", of(PARTED, 6), BOUND);
    holds_so_far("parts, two maintainers", beside(of(PARTED, 4), 2), BOUND);
    holds_so_far("parts, combined", combined(incremental(of(PARTED, 4))), BOUND / 2);
}

#[test]
fn segments_that_are_written_merged_and_swept_keep_every_promise() {
    holds("segments", segments(WRITER, 7));
    holds("merges", segments(MERGERS, 4));
    holds_so_far("merge beside a writer", incremental(segments(MERGER_AND_WRITER, 6)), BOUND);
}

#[test]
fn pinned_snapshots_stay_readable() {
    holds("reader", incremental(Setup::new(READER, 1, 9)));
    holds("reader, combined", combined(Setup::new(READER, 1, 4)));
    holds_so_far("reader beside a writer", Setup::new(READER_AND_WRITER, 1, 6), BOUND);
}

#[test]
fn a_sleeper_that_creates_a_trimmed_catalog_number_does_no_harm() {
    holds("trimming", Setup { trimming: true, ..beside(plain(3), 2) });
}

#[test]
fn the_last_sound_copy_of_a_chunk_outlives_the_others() {
    holds("damage", Setup { damage: true, ..incremental(plain(5)) });
}

/// Where no session has parts and nobody cleans strays, maintainers may list in either order.
#[test]
fn the_order_of_a_maintainers_lists_matters_only_to_parts_and_strays() {
    let setup = plain(6).without(Rule::MaintainersListCommitsFirst);
    holds("sessions first", incremental(setup.off(NO_STRAYS)));
}

/// Looking at every root again makes up for condemning by a wrong idea of where chunks are.
#[test]
fn a_full_verdict_does_without_the_rules_about_locations() {
    for rule in [Rule::UncondemnedLocation, Rule::MarkedOnThisCatalog] {
        holds(&format!("full verdict without {rule:?}"), plain(5).without(rule));
    }
    holds("full verdict without BatchIsNoLocation", {
        combined(plain(3)).without(Rule::BatchIsNoLocation)
    });
    holds("full verdict without BadTakesBack", {
        Setup { damage: true, ..plain(5) }.without(Rule::BadTakesBack)
    });
}

/// A run in which leaving out the rule must be found, and the steps that are enough for it.
fn case(rule: Rule) -> (Setup, usize) {
    use Rule as R;
    let (setup, steps) = match rule {
        R::CatalogReadAfterSession => (plain(5), 16),
        R::CondemnedBeforeDead | R::VerdictEvenIfIdle => (plain(5), 15),
        R::VerdictWaitsForSessions => (plain(5), 19),
        R::ForgottenAreRoots => (combined(Setup::new(WRITERS, 1, 4)).off(NO_ENDING), 22),
        R::ForgottenAreKept => (combined(Setup::new(WRITERS, 1, 5)).off(WITH_UNDIE), 26),
        R::UncondemnedLocation => (incremental(plain(6)), 24),
        R::CondemnSeesFolds => (incremental(combined(plain(4))), 19),
        R::BatchIsNoLocation => (incremental(combined(plain(4))), 12),
        R::MarkedOnThisCatalog => (incremental(beside(plain(6), 2)), 24),
        R::RegisterWrittenOnce => (plain(5), 17),
        R::CommitNeedsSession => (plain(6).off(NO_REPACK), 42),
        R::CommitsListedFirst => (combined(Setup::new(WRITERS, 1, 3)).off(NO_UPLOADS), 37),
        R::VerdictListsAgain | R::MaintainersListCommitsFirst => (plain(5), 13),
        R::ListsAfterCatalog => (beside(plain(5), 2), 19),
        R::OrphansOnNewest => (beside(plain(4), 2).off(NO_DEATH), 35),
        R::PacksListedFirst | R::OrphanHasNoSession => (plain(5), 25),
        R::SessionCleanedFirst => (plain(5), 22),
        R::FoldedMayBeFenced => (plain(5), 27),
        R::LateSessionsDie => (plain(5), 33),
        rule => return extended_case(rule),
    };
    (setup.without(rule), steps)
}

/// [`case`], for the rules about checkpoints, segments, readers, trimming and damage.
fn extended_case(rule: Rule) -> (Setup, usize) {
    use Rule as R;
    let chain = combined(of(CHAIN, 5));
    let (setup, steps) = match rule {
        R::CheckpointIsRoot => (chain.off(NO_ENDING), 20),
        R::CheckpointAfterSession => (chain.off(NO_ENDING), 19),
        R::CheckpointSeenOpen => (chain.off(WITH_DROPS), 30),
        R::SupersededAreKept => (combined(of(CHAIN_AND_WRITER, 4)).off(NO_ENDING), 28),
        R::PartBeforeMainSeen => (of(PARTED, 6), 25),
        R::MainRecordSeen => (of(PARTED, 6).off(NO_LITTER), 38),
        R::PartsProtectPacks => (of(PARTED, 5).off(NO_STRAYS), 35),
        R::PackNamedByListedSegment => (segments(MERGER_AND_WRITER, 6).off(NO_ENDING), 30),
        R::DeadOutliveSegments => (segments(WRITER, 6).off(NO_ENDING), 27),
        R::MergeInputsListed => (segments(MERGERS, 7).off(NO_ENDING), 40),
        R::MergeSessionOpen => (segments(MERGER, 7), 20),
        R::PinCheckedAfterSession => (Setup::new(READER, 1, 5), 14),
        R::PinsAreRoots => (Setup::new(READER, 1, 5), 15),
        R::PinnedAreKept => (Setup::new(READER, 1, 5), 19),
        R::ForgottenBeforeUndied => (combined(Setup::new(READER, 1, 4)), 11),
        R::WinVerified => (Setup { trimming: true, ..beside(plain(5), 2) }, 29),
        R::BadTakesBack => (Setup { damage: true, ..incremental(plain(5)) }, 21),
        rule => panic!("no run is known that needs {rule:?}"),
    };
    (setup.without(rule), steps)
}

const WITH_UNDIE: &[Action] =
    &[LateCommit, Repack, SweepOrphan, SweepSegment, CleanStray, VerdictRescue];
const NO_UPLOADS: &[Action] = &[
    LateCommit,
    Repack,
    SweepOrphan,
    SweepDead,
    CleanStray,
    VerdictRescue,
    Undie,
    DropFolded,
    ChooseUpload,
];
const WITH_DROPS: &[Action] = &[
    LateCommit,
    Repack,
    SweepOrphan,
    SweepDead,
    CleanStray,
    VerdictRescue,
    Undie,
    ChooseUpload,
    Fence,
];
const NO_REPACK: &[Action] = &[Repack, SweepOrphan, CleanStray, VerdictRescue, Undie];
const NO_DEATH: &[Action] =
    &[LateCommit, Repack, SweepSegment, SweepDead, Forget, Fence, CleanStray, VerdictRescue];

#[test]
fn leaving_out_any_rule_breaks_a_promise() {
    for rule in Rule::ALL {
        let (setup, steps) = case(rule);
        let report = run(&format!("without {rule:?}"), &setup, WHOLE);
        let found = report.counter_example();
        assert!(found.is_some_and(|found| found <= steps), "{rule:?}: {report}");
        assert_eq!(setup.without, Some(rule));
    }
}

/// What only a broken protocol does is left out: [`Mark`], [`WinOldNumber`] without trimming.
#[test]
fn everything_that_can_happen_does() {
    let all = [
        ReadHead,
        OpenSession,
        ReadCatalog,
        CheckCheckpoint,
        OpenPart,
        CheckRegister,
        CheckSession,
        ListCommits,
        ListSessions,
        Reference,
        ChooseUpload,
        PutPack,
        PutSegment,
        Commit,
        Confirm,
        LateCommit,
        Unpin,
        ListPacks,
        StartOver,
        Publish,
        Fold,
        DropFolded,
        Forget,
        Undie,
        Condemn,
        VerdictDead,
        VerdictRescue,
        DropDead,
        MarkBad,
        Repack,
        PublishRepack,
        PublishMerge,
        WinOldNumber,
        Fence,
        CleanSession,
        CleanCommit,
        CleanStray,
        SweepDead,
        SweepOrphan,
        SweepSegment,
        Delete,
        Damage,
    ];
    let reports = [
        holds("everything: chain", of(CHAIN, 3)),
        holds("everything: parts", of(PARTED, 4)),
        holds("everything: reader", Setup::new(READER, 1, 3)),
        holds("everything: segments", segments(WRITER, 6)),
        holds("everything: merges", segments(MERGER, 6)),
        holds("everything: trimming", Setup { trimming: true, ..beside(plain(2), 2) }),
        holds("everything: combined", combined(plain(2))),
        holds("everything: damage", Setup { damage: true, ..plain(4) }),
    ];
    for action in all {
        assert!(reports.iter().any(|report| report.took(action)), "nobody does {action:?}");
    }
}

#[test]
fn larger_runs_keep_every_promise() {
    if !soak() {
        return;
    }
    let setups = [
        ("1x1, combined", combined(plain(5))),
        ("1x2", beside(plain(8), 2)),
        ("2x1", Setup::new(WRITERS, 1, 7)),
        ("2x2", Setup::new(WRITERS, 2, 4)),
        ("2x1, combined", combined(Setup::new(WRITERS, 1, 4))),
        ("1x2, combined", combined(beside(plain(4), 2))),
        ("2x1, paged lists", Setup { paged_lists: true, ..Setup::new(WRITERS, 1, 6) }),
        ("repack", Setup::new(REPACKER_AND_WRITER, 1, 6).off(&[Repack])),
        ("chain", of(CHAIN, 7)),
        ("chain, combined", combined(of(CHAIN, 4))),
        ("chain beside a writer", combined(of(CHAIN_AND_WRITER, 4))),
        ("parts", of(PARTED, 8)),
        ("parts, two maintainers", beside(of(PARTED, 6), 2)),
        ("parts, combined", combined(of(PARTED, 4))),
        ("parts beside a writer", combined(of(PARTED_AND_WRITER, 4))),
        ("merge beside a writer", segments(MERGER_AND_WRITER, 6)),
        ("two merges", segments(MERGERS, 6)),
        ("merge, combined", combined(segments(MERGER_AND_WRITER, 4))),
        ("reader beside a writer", Setup::new(READER_AND_WRITER, 1, 6)),
        ("reader beside a writer, combined", combined(Setup::new(READER_AND_WRITER, 1, 4))),
        ("trimming", Setup { trimming: true, ..beside(plain(5), 2) }),
        ("damage, two maintainers", Setup { damage: true, ..beside(plain(5), 2) }),
        ("two chunks, two maintainers", Setup { chunks: 2, ..beside(plain(5), 2) }),
    ];
    for (name, setup) in setups {
        holds_so_far(&format!("soak: {name}, incremental"), incremental(setup), BOUND_SOAK);
        holds_so_far(&format!("soak: {name}"), setup, BOUND_SOAK);
    }
}
