//! `salvor stats`: what is stored, what it saved, and about what it costs.

use std::fs;
use std::path::Path;

use repo_format::lock::ObjectLock;
use repository::cost::{Holding, LIST, Price, Work, overridden};
use repository::stats::{self, KindStats, Stats};
use repository::store::Location;
use repository::store::s3::Provider;
use repository::view::View;
use repository::writer::sync_index;
use serde_json::{Value, json};

use super::args::StatsArgs;
use super::context::Context;
use super::error::{CliError, Exit};
use super::snapshots::new_table;
use super::{locks, requests, units};

/// An incremental backup is estimated for so small a part of what is stored.
const INCREMENTAL_PART: u64 = 100;

pub(super) fn run(context: &Context, args: &StatsArgs) -> Result<Exit, CliError> {
    let table = table(args.price_table.as_deref())?;
    let price = chosen(context, &table, args.price.as_deref())?;
    let (repository, glance) = context.open_with_glance(false)?;
    let view = View::for_reading_after(&repository, glance.as_ref())?;
    let index = context.index(&repository)?;
    for problem in sync_index(&repository, &index, &view)? {
        context.ui.warn(&problem);
    }
    let stats = stats::collect(&view, &index)?;
    let census = stats::census(&**repository.store()).map_err(repository::RepositoryError::from)?;
    let holding = stats::holding(&census);
    let lock = view.head.catalog.lock.clone();
    let mut object = json!(stats);
    if let Some(map) = object.as_object_mut() {
        map.insert("type".into(), json!("stats"));
        map.insert("objects".into(), json!(census));
        map.insert("object_bytes".into(), json!(holding.bytes));
        if let Some(price) = price {
            map.insert("price".into(), estimate(price, &holding));
        }
        if let Some(lock) = &lock {
            let mut told = locks::of_lock(lock, Some(holding.packs));
            told["price_month"] = json!(price.map(|price| lock_price(price, lock, &holding)));
            map.insert("lock".into(), told);
        }
    }
    requests::add(&mut object, &**repository.store());
    context.ui.object(&object);
    show_names(context, &stats);
    show_objects(context, &census);
    if let Some(lock) = &lock {
        context.ui.say(&format!("locks      {}", locks::line(lock)));
        let month = units::count(locks::extensions_a_month(lock, holding.packs));
        let sum = price.map_or_else(String::new, |price| {
            format!(", {}", dollars(lock_price(price, lock, &holding)))
        });
        context.ui.say(&format!("           keeping them takes about {month} PUT a month{sum}"));
    }
    match price {
        Some(price) => show_price(context, price, &holding),
        None if matches!(context.location()?, Location::S3 { .. }) => {
            context.ui.say("price       not known for this server: choose a row with --price");
        }
        None => {}
    }
    requests::say(context, "", &**repository.store());
    Ok(Exit::Done)
}

/// What extending locks costs in a month.
fn lock_price(price: &Price, lock: &ObjectLock, holding: &Holding) -> f64 {
    let put_class = locks::extensions_a_month(lock, holding.packs);
    price.requests(&Work { put_class, ..Work::default() })
}

/// The built-in prices, with those of a file over them.
fn table(file: Option<&Path>) -> Result<Vec<Price>, CliError> {
    let Some(file) = file else { return Ok(LIST.to_vec()) };
    let what = || format!("cannot read the price table {}", file.display());
    let text = fs::read(file).map_err(CliError::io(what()))?;
    let rows = serde_json::from_slice(&text)
        .map_err(|error| CliError::Failed(format!("{}: {error}", what())))?;
    Ok(overridden(&LIST, rows))
}

/// The row that was named, else the one of the bucket's provider and storage class.
fn chosen<'a>(
    context: &Context,
    table: &'a [Price],
    named: Option<&str>,
) -> Result<Option<&'a Price>, CliError> {
    let find = |name: &str| table.iter().find(|row| row.name == name);
    if let Some(name) = named {
        return find(name).map(Some).ok_or_else(|| {
            let all: Vec<&str> = table.iter().map(|row| &*row.name).collect();
            CliError::Usage(format!("no price `{name}`: there are {}", all.join(", ")))
        });
    }
    let Location::S3 { .. } = context.location()? else { return Ok(None) };
    let config = context.s3();
    let class = config.pack_class.as_ref().map_or("STANDARD", |class| class.name());
    let usual = usual(config.provider(), config.endpoint.as_deref().unwrap_or_default(), class);
    Ok(usual.and_then(find))
}

/// The row for packs of a storage class at a provider.
fn usual(provider: Provider, endpoint: &str, class: &str) -> Option<&'static str> {
    match (provider, class) {
        (Provider::Aws, "STANDARD") => Some("aws-standard"),
        (Provider::Aws, "STANDARD_IA") => Some("aws-standard-ia"),
        (Provider::Aws, "ONEZONE_IA") => Some("aws-onezone-ia"),
        (Provider::Aws, "GLACIER_IR") => Some("aws-glacier-ir"),
        (Provider::Backblaze, _) => Some("backblaze-b2"),
        (Provider::Cloudflare, "STANDARD_IA") => Some("cloudflare-r2-ia"),
        (Provider::Cloudflare, _) => Some("cloudflare-r2"),
        (Provider::Google, "STANDARD") => Some("google-standard"),
        _ if endpoint.contains(".wasabisys.com") => Some("wasabi"),
        _ => None,
    }
}

/// What is estimated, with its name for programs and for people.
fn works(holding: &Holding) -> [(&'static str, &'static str, Work); 3] {
    [
        ("first_backup", "first backup of this", holding.first_backup()),
        ("incremental", "incremental of 1 %", holding.incremental(INCREMENTAL_PART)),
        ("restore", "restore of everything", holding.restore()),
    ]
}

fn estimate(price: &Price, holding: &Holding) -> Value {
    let mut object = json!({
        "name": price.name,
        "as_of": price.as_of,
        "currency": "USD",
        "row": price,
        "storage_month": price.month(holding.bytes),
    });
    for (name, _, work) in works(holding) {
        object[name] = json!({
            "put_class": work.put_class,
            "get_class": work.get_class,
            "received_bytes": work.received_bytes,
            "requests": price.requests(&work),
            "retrieval": price.retrieval(&work),
            "egress": price.egress(&work),
        });
    }
    object
}

fn show_names(context: &Context, stats: &Stats) {
    let mut table = new_table(&["Name", "Snapshots", "Newest", "All, full", "New", "Stored"]);
    let (mut full, mut new, mut stored) = (0, 0, 0);
    for (name, row) in &stats.names {
        full += row.allocated_bytes;
        new += row.new_plain_bytes;
        stored += row.new_stored_bytes;
        table.add_row([
            name.clone(),
            units::count(row.snapshots),
            units::bytes(row.newest_logical_bytes),
            units::bytes(row.allocated_bytes),
            units::bytes(row.new_plain_bytes),
            units::bytes(row.new_stored_bytes),
        ]);
    }
    context.ui.say(&table.to_string());
    let held = stats.data_bytes + stats.meta_bytes + stats.segment_bytes;
    context.ui.say(&format!(
        "\nstored     {} ({} content in {} packs, {} manifests, {} index), {} chunks",
        units::bytes(held),
        units::bytes(stats.data_bytes),
        units::count(stats.data_packs),
        units::bytes(stats.meta_bytes),
        units::bytes(stats.segment_bytes),
        units::count(stats.chunks),
    ));
    context.ui.say(&format!(
        "saved by   deduplication {:.2}x, compression {:.2}x, together {:.2}x",
        units::ratio(full, new),
        units::ratio(new, stored),
        units::ratio(full, held),
    ));
    if stats.condemned_bytes > 0 {
        let waiting = units::bytes(stats.condemned_bytes);
        context.ui.say(&format!("reclaimable {waiting} with the next prune"));
    }
}

fn show_objects(context: &Context, census: &[KindStats]) {
    let kinds: Vec<String> = census
        .iter()
        .filter(|row| row.objects > 0)
        .map(|row| {
            format!("{} {} in {}", row.kind, units::bytes(row.bytes), units::count(row.objects))
        })
        .collect();
    context.ui.say(&format!("objects    {}", kinds.join(", ")));
}

fn show_price(context: &Context, price: &Price, holding: &Holding) {
    let ui = &context.ui;
    let as_of = if price.as_of.is_empty() { String::new() } else { format!(", {}", price.as_of) };
    ui.say(&format!(
        "price      {} a month at {} (list price, without tax{as_of})",
        dollars(price.month(holding.bytes)),
        price.name,
    ));
    for (_, what, work) in works(holding) {
        let mut text = format!(
            "           {what}: {} for {} PUT/LIST and {} GET",
            dollars(price.requests(&work)),
            units::count(work.put_class),
            units::count(work.get_class),
        );
        for (sum, why) in [(price.retrieval(&work), "retrieval"), (price.egress(&work), "egress")] {
            if sum > 0.0 {
                text = format!("{text}, {} for {why}", dollars(sum));
            }
        }
        ui.say(&text);
    }
    if price.days_min > 0 {
        let days = price.days_min;
        ui.say(&format!("           what is deleted sooner is charged for {days} days"));
    }
}

/// A sum of money for people: in cents, or as fine as it takes.
fn dollars(sum: f64) -> String {
    match sum {
        0.0 => "$0".into(),
        sum if sum < 0.0001 => "less than $0.0001".into(),
        sum if sum < 1.0 => format!("${sum:.4}"),
        sum => format!("${sum:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_row_is_in_the_table() {
        for (provider, endpoint, class, wanted) in [
            (Provider::Aws, "", "STANDARD", Some("aws-standard")),
            (Provider::Aws, "", "STANDARD_IA", Some("aws-standard-ia")),
            (Provider::Aws, "", "ONEZONE_IA", Some("aws-onezone-ia")),
            (Provider::Aws, "", "GLACIER_IR", Some("aws-glacier-ir")),
            (Provider::Aws, "", "INTELLIGENT_TIERING", None),
            (Provider::Backblaze, "", "STANDARD", Some("backblaze-b2")),
            (Provider::Cloudflare, "", "STANDARD", Some("cloudflare-r2")),
            (Provider::Cloudflare, "", "STANDARD_IA", Some("cloudflare-r2-ia")),
            (Provider::Google, "", "STANDARD", Some("google-standard")),
            (Provider::Google, "", "NEARLINE", None),
            (Provider::Other, "https://s3.eu-central-1.wasabisys.com", "STANDARD", Some("wasabi")),
            (Provider::Minio, "http://localhost:9000", "STANDARD", None),
        ] {
            let found = usual(provider, endpoint, class);
            assert_eq!(found, wanted, "{provider:?} {endpoint} {class}");
            assert!(found.is_none_or(|name| LIST.iter().any(|row| row.name == name)), "{found:?}");
        }
    }

    #[test]
    fn sums_of_money_keep_what_matters() {
        for (sum, text) in
            [(0.0, "$0"), (0.000_01, "less than $0.0001"), (0.0625, "$0.0625"), (23.552, "$23.55")]
        {
            assert_eq!(dollars(sum), text);
        }
    }
}
