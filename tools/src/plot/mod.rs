// SPDX-License-Identifier: GPL-2.0-only
//! A trace as a page for a browser: one file, nothing from a network, light or dark.

mod svg;

use std::fmt::Write as _;

use crate::analysis::region::Class;
use crate::analysis::{Cause, DomainView, View, mean_references, reason, walk_references};
use crate::report::complaints;
use crate::scan::Scan;
use crate::trace::events::{self, Kind};
use crate::words::{Clock, grouped, memory, percent, times};

/// Domains of which everything is drawn; the others are in a table.
const IN_FULL: usize = 8;

const STYLE: &str = include_str!("style.css");
const HOVER: &str = include_str!("hover.js");

/// Text that is safe inside an element or a quoted attribute.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c => safe.push(c),
        }
    }
    safe
}

/// How an act is coloured.
pub(crate) fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Promote => "promoted",
        Kind::Complete => "completed",
        Kind::Migrate => "migrated",
        Kind::Exchange => "exchange",
        Kind::Split => "broken",
        Kind::Refuse => "holes",
    }
}

pub(crate) fn class_name(class: Class) -> &'static str {
    match class {
        Class::Whole => "whole",
        Class::Promoted => "promoted",
        Class::Completed => "completed",
        Class::Migrated => "migrated",
        Class::Broken => "broken",
        Class::Holes => "holes",
        Class::Empty => "empty",
    }
}

fn class_words(class: Class) -> &'static str {
    match class {
        Class::Whole => "one 2M page, as it was",
        Class::Promoted => "healed in place",
        Class::Completed => "healed by fetching the pages astray",
        Class::Migrated => "healed by moving all of it",
        Class::Broken => "broken into 4K pages",
        Class::Holes => "broken, with holes",
        Class::Empty => "no memory",
    }
}

fn act_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Promote => "promote in place",
        Kind::Complete => "complete",
        Kind::Migrate => "migrate",
        Kind::Exchange => "exchange",
        Kind::Split => "split",
        Kind::Refuse => "refuse",
    }
}

fn legend(entries: &[(&str, &str)]) -> String {
    let entries: String = entries
        .iter()
        .map(|(class, words)| format!("<span><i class=\"{class}\"></i>{words}</span>"))
        .collect();
    format!("<div class=\"legend\">{entries}</div>")
}

/// The page.
pub fn page(name: &str, scan: &Scan, view: &View, clock: Clock) -> String {
    let ticks = view.last.saturating_sub(view.first);
    let mut html = String::new();
    let title = escaped(name);
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{title} – xen-coalesce</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>How superpages broke and healed</h1>\n\
         <p class=\"about\"><code>{title}</code> · {} of {} over {}</p>\n",
        times(scan.records, "record", "records"),
        times(scan.cpus, "CPU", "CPUs"),
        clock.length(ticks as f64)
    );
    for line in complaints(scan, view) {
        let _ = writeln!(html, "<p class=\"warn\">{}</p>", escaped(&line));
    }
    if view.domains.is_empty() {
        html += "<p class=\"warn\">Nothing in this trace is about the memory of a domain.</p>\n";
    }

    let mut domains: Vec<&DomainView> = view.domains.iter().collect();
    domains.sort_by_key(|domain| {
        let counts = &domain.counts;
        let acts = counts.healed() + counts.all_splits() + counts.all_refused();
        (std::cmp::Reverse(acts), domain.id)
    });
    let (full, brief) = domains.split_at(domains.len().min(IN_FULL));
    for domain in full {
        section(&mut html, domain, ticks, clock);
    }
    if !brief.is_empty() {
        html += &others(brief);
    }
    let _ = write!(
        html,
        "<footer><p>A region is 2 MiB of a guest's memory, which the host maps by one entry or by 512. \
         Records that have no time of their own (Xen's of a change of the p2m) count as of the one before \
         them on their CPU. Memory references of a TLB miss: (g+1)(h+1)−1 for g and h levels of the guest's \
         and the host's page table, without what caches save.</p>{}</footer>\n\
         </main>\n<script>\n{HOVER}</script>\n</body>\n</html>\n",
        if clock.tsc_mhz.is_none() {
            "<p>Times are in ticks of the TSC: <code>--tsc-mhz</code> would make seconds of them.</p>"
        } else {
            ""
        }
    );
    html
}

fn others(domains: &[&DomainView]) -> String {
    let mut html = "<h2>Other domains</h2>\n<div class=\"card\"><table><tr><th>Domain</th>\
                    <th class=\"n\">memory</th><th class=\"n\">in 2M pages</th><th class=\"n\">healed</th>\
                    <th class=\"n\">broken</th></tr>\n"
        .to_owned();
    for domain in domains {
        let coverage = domain
            .coverage()
            .map_or("–".to_owned(), |c| percent(c.last));
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{coverage}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            domain.id,
            memory(domain.regions),
            grouped(domain.counts.healed()),
            grouped(domain.counts.all_splits())
        );
    }
    html + "</table></div>\n"
}

fn tile(value: &str, words: &str) -> String {
    format!("<div class=\"tile\"><b>{value}</b><span>{words}</span></div>")
}

fn section(html: &mut String, domain: &DomainView, ticks: u64, clock: Clock) {
    let counts = &domain.counts;
    let holds = counts.all_holds();
    let chart = svg::Time::new(domain, ticks, clock);
    let _ = write!(
        html,
        "<section id=\"domain-{}\" data-course=\"{}\">\n<h2>Domain {} <small>{} ({}) that the trace tells \
         of</small></h2>\n<div class=\"tiles\">\n",
        domain.id,
        escaped(&chart.course()),
        domain.id,
        times(domain.regions, "region", "regions"),
        memory(domain.regions)
    );
    if let Some(coverage) = domain.coverage() {
        *html += &tile(
            &percent(coverage.last),
            &format!(
                "in 2M pages at last; {} at first, {} at worst",
                percent(coverage.first),
                percent(coverage.worst)
            ),
        );
        let refs = |share| format!("{:.1}", mean_references(4, share));
        *html += &tile(
            &refs(coverage.last),
            &format!(
                "memory references of a TLB miss; {} at first, {} at worst",
                refs(coverage.first),
                refs(coverage.worst)
            ),
        );
    }
    *html += &tile(
        &grouped(counts.healed()),
        &format!(
            "regions healed, {} copied for it",
            times(counts.pages_copied, "page", "pages")
        ),
    );
    *html += &tile(
        &grouped(counts.all_splits()),
        &format!(
            "2M pages broken, {} avoided",
            grouped(counts.splits_avoided)
        ),
    );
    if let Some(mean) = holds.mean() {
        *html += &tile(
            &clock.length(f64::from(holds.longest)),
            &format!(
                "longest hold of the p2m lock; {} on average",
                clock.length(mean)
            ),
        );
    }
    *html += "\n</div>\n";

    let seen = |class: Class| domain.steps.iter().any(|step| step.end.of(class) != 0);
    let classes: Vec<(&str, &str)> = Class::ALL
        .into_iter()
        .filter(|class| *class != Class::Empty && seen(*class))
        .map(|class| (class_name(class), class_words(class)))
        .collect();
    let _ = write!(
        html,
        "<div class=\"card\"><h3>Memory over time</h3><p class=\"note\">How the memory is mapped, and what \
         healed it.</p><div class=\"readout\"></div>\n{}{}</div>\n",
        legend(&classes),
        chart.areas()
    );
    if let Some(map) = &domain.map {
        let height = if map.height == 1 {
            "A row is one region".to_owned()
        } else {
            format!("A row is {}", memory(map.height))
        };
        let _ = write!(
            html,
            "<div class=\"card\"><h3>Each region over time</h3><p class=\"note\">{height}, lowest guest address \
             on top; the colours are those above{}.</p>\n{}</div>\n",
            if map.height == 1 {
                ""
            } else {
                ", mixed where only some regions of a row are broken"
            },
            chart.map(map)
        );
    }
    if holds.count != 0 {
        let kinds: Vec<(&str, &str)> = Kind::ALL
            .into_iter()
            .filter(|kind| counts.holds.get(kind.name()).is_some_and(|h| h.count != 0))
            .map(|kind| (colour(kind), act_words(kind)))
            .collect();
        let _ = write!(
            html,
            "<div class=\"card\"><h3>Stalls</h3><p class=\"note\">How long an act held the lock of the p2m, for \
             which a guest that faults meanwhile waits; of each kind the longest of a moment.</p>\n{}{}</div>\n",
            legend(&kinds),
            chart.stalls()
        );
    }

    *html += "<div class=\"cards\">\n";
    tables(html, domain, clock);
    *html += "</div>\n</section>\n";
}

/// A row of a table with a bar: class of its colour, words, number.
fn bars(html: &mut String, title: &str, rows: &[(&str, String, u64)]) {
    let most = rows.iter().map(|(_, _, n)| *n).max().unwrap_or(0).max(1);
    let _ = writeln!(html, "<div class=\"card\"><h3>{title}</h3><table>");
    for (class, words, n) in rows {
        let width = *n as f64 * 100.0 / most as f64;
        let bar = if *n == 0 {
            String::new()
        } else {
            format!("<span class=\"bar {class}\" style=\"width:{width:.1}%\"></span>")
        };
        let _ = writeln!(
            html,
            "<tr><td>{words}</td><td class=\"n\">{}</td><td class=\"wide\">{bar}</td></tr>",
            grouped(*n)
        );
    }
    *html += "</table></div>\n";
}

fn tables(html: &mut String, domain: &DomainView, clock: Clock) {
    let counts = &domain.counts;
    bars(
        html,
        "Healed",
        &[
            (
                "promoted",
                "in place, nothing copied".to_owned(),
                counts.promoted,
            ),
            (
                "completed",
                "by fetching the pages astray".to_owned(),
                counts.completed,
            ),
            (
                "migrated",
                "by moving all of it".to_owned(),
                counts.migrated,
            ),
        ],
    );
    let splits: Vec<(&str, String, u64)> = Cause::ALL
        .into_iter()
        .filter_map(|cause| {
            Some((
                "broken",
                cause.explain().to_owned(),
                *counts.splits.get(&cause)?,
            ))
        })
        .collect();
    if !splits.is_empty() {
        bars(html, "What broke 2M pages", &splits);
    }
    if !counts.refused.is_empty() {
        let mut refused: Vec<(&u8, &u64)> = counts.refused.iter().collect();
        refused.sort_by_key(|(code, n)| (std::cmp::Reverse(**n), **code));
        let rows: Vec<(&str, String, u64)> = refused
            .into_iter()
            .map(|(code, n)| {
                let name = reason(*code);
                let words = events::explain(&name);
                (
                    "holes",
                    format!("<code>{name}</code> {}", escaped(words)),
                    *n,
                )
            })
            .collect();
        bars(html, "Looked at and left", &rows);
    }

    let histogram = counts.all_holds().histogram(clock.scale());
    if !histogram.is_empty() {
        let rows: Vec<(&str, String, u64)> = histogram
            .into_iter()
            .map(|(from, n)| ("exchange", clock.bound(from), n))
            .collect();
        bars(html, "How long the p2m lock was held", &rows);
    }
    if let Some(coverage) = domain.coverage() {
        *html += "<div class=\"card\"><h3>Memory references of a TLB miss</h3><table><tr><th>guest page</th>\
                  <th class=\"n\">whole</th><th class=\"n\">broken</th><th class=\"n\">at first</th>\
                  <th class=\"n\">at worst</th><th class=\"n\">at last</th></tr>\n";
        for (levels, size) in [(4, "4K"), (3, "2M")] {
            let mean = |share| format!("{:.1}", mean_references(levels, share));
            let _ = writeln!(
                html,
                "<tr><td>{size}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                walk_references(levels, 3),
                walk_references(levels, 4),
                mean(coverage.first),
                mean(coverage.worst),
                mean(coverage.last)
            );
        }
        *html += "</table></div>\n";
    }
    if counts.exchange_batches != 0 {
        let _ = writeln!(
            html,
            "<div class=\"card\"><h3>Exchanged</h3><p>{} in {}, and {} avoided.</p></div>",
            times(counts.exchanged_pages, "page", "pages"),
            times(counts.exchange_batches, "batch", "batches"),
            times(counts.splits_avoided, "split", "splits")
        );
    }
}
