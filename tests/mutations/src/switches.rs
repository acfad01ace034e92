// SPDX-License-Identifier: GPL-2.0-only
//! Puts the changes that cargo-mutants lists into the sources, each behind a
//! question: with one build all of them can be tried, one at a time. (Untch,
//! Offutt and Harrold, "Mutation analysis using mutant schemata", 1993.)
//!
//! Only text is inserted around what is there, so that changes of an expression
//! and of its parts go together.

use anyhow::{Context, Result, ensure};
use proc_macro2::LineColumn;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A change as `cargo mutants --list --json` has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    pub file: String,
    pub function: Option<Function>,
    pub span: Span,
    pub replacement: String,
    pub genre: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    pub function_name: String,
}

/// Lines and columns from 1 on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start: Place,
    pub end: Place,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// Asked at each place: is this the change to be tried? Where `REACHED` names a
/// file, the changes that were come by are listed there.
pub const QUESTION: &str = r#"
pub mod mutation {
    extern crate std;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::{Mutex, OnceLock};

    struct Asked { chosen: usize, reached: Option<Mutex<std::fs::File>> }
    const MAX: usize = 8192;
    static SEEN: [AtomicBool; MAX] = [const { AtomicBool::new(false) }; MAX];

    fn asked() -> &'static Asked {
        static ASKED: OnceLock<Asked> = OnceLock::new();
        ASKED.get_or_init(|| Asked {
            chosen: std::env::var("MUTATION").map_or(0, |n| n.parse().unwrap()),
            reached: std::env::var_os("REACHED").map(|path| {
                Mutex::new(std::fs::File::options().create(true).append(true).open(path).unwrap())
            }),
        })
    }

    /// Which of `count` changes from `first` on, from 1 on; 0: none.
    #[inline]
    pub fn which(first: usize, count: usize) -> usize {
        let asked = asked();
        if let Some(file) = &asked.reached {
            for n in first..first + count {
                if !SEEN[n].swap(true, Relaxed) {
                    std::writeln!(file.lock().unwrap(), "{n}").unwrap();
                }
            }
        }
        if (first..first + count).contains(&asked.chosen) { asked.chosen - first + 1 } else { 0 }
    }

    #[inline]
    pub fn is(number: usize) -> bool {
        which(number, 1) == 1
    }
}
"#;

/// Text around a range of the source.
struct Wrap {
    range: Range<usize>,
    prefix: String,
    suffix: String,
    /// Of the source, and what stands there instead.
    inside: Vec<(Range<usize>, String)>,
    mutants: Range<usize>,
}

/// A source with changes in it.
pub struct Switched {
    pub text: String,
    /// Where each change is in it.
    pub places: Vec<(Range<usize>, Range<usize>)>,
    /// Changes that were put in, by their place in what was listed.
    pub done: BTreeSet<usize>,
}

/// Offsets of lines, to find a place in a text.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Lines {
            text,
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// `line` from 1 on, `column` in characters from 0 on.
    fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.starts[line - 1];
        let chars = self.text[start..].char_indices();
        start + chars.map(|(at, _)| at).nth(column).unwrap_or(0)
    }

    fn range(&self, span: proc_macro2::Span) -> Range<usize> {
        let at = |p: LineColumn| self.offset(p.line, p.column);
        at(span.start())..at(span.end())
    }
}

struct Finder<'a> {
    lines: Lines<'a>,
    /// What is to be changed, by where it begins: numbers in the list.
    wanted: BTreeMap<(usize, usize), Vec<usize>>,
    listed: &'a [Listed],
    /// Functions that have to stay `const`.
    constant: &'a BTreeSet<String>,
    question: &'static str,
    wraps: Vec<Wrap>,
    /// `const` of functions that lose it.
    blank: Vec<Range<usize>>,
    done: BTreeSet<usize>,
    in_constant: bool,
}

impl Finder<'_> {
    /// The changes of one genre that begin at `span`.
    fn take(&mut self, span: proc_macro2::Span, genre: &str) -> Vec<usize> {
        let start = span.start();
        let found = match self.wanted.get(&(start.line, start.column + 1)) {
            Some(numbers) if !self.in_constant => numbers.clone(),
            _ => return Vec::new(),
        };
        found
            .into_iter()
            .filter(|&n| self.listed[n].genre == genre && !self.done.contains(&n))
            .collect()
    }

    fn wrap(&mut self, range: Range<usize>, numbers: &[usize], text: [String; 2]) {
        let [prefix, suffix] = text;
        self.wraps.push(Wrap {
            range,
            prefix,
            suffix,
            inside: Vec::new(),
            mutants: numbers[0]..numbers[numbers.len() - 1] + 1,
        });
        self.done.extend(numbers);
    }

    /// `question::which(first, count)`; what is listed for one place has
    /// neighbouring numbers.
    fn which(&self, numbers: &[usize]) -> String {
        let (first, count) = (numbers[0] + 1, numbers.len());
        assert!(numbers.iter().zip(numbers[0]..).all(|(&a, b)| a == b));
        format!("{}::which({first}, {count})", self.question)
    }

    /// `1 => …, 2 => …, _ => …` with `f` of each operator.
    fn arms(&self, numbers: &[usize], old: &str, f: impl Fn(&str) -> String) -> String {
        let new = numbers.iter().zip(1..).map(|(&n, i)| {
            let op = self.listed[n].replacement.as_str();
            format!("{i} => {}, ", f(op))
        });
        format!("{}_ => {}", new.collect::<String>(), f(old))
    }

    fn function(&mut self, sig: &syn::Signature, block: &syn::Block) -> bool {
        let keep = self.constant.contains(&sig.ident.to_string());
        match sig.constness {
            Some(token) if !keep => self.blank.push(self.lines.range(token.span())),
            _ => {}
        }
        let before = self.in_constant;
        self.in_constant |= keep && sig.constness.is_some();
        // What is returned in two places has one type.
        let opaque = match &sig.output {
            syn::ReturnType::Type(_, ty) => matches!(**ty, syn::Type::ImplTrait(_)),
            syn::ReturnType::Default => false,
        };
        if !self.in_constant && !opaque {
            let open = self.lines.range(block.brace_token.span.open()).end;
            let body = self.lines.range(block.span());
            let (first, last) = (block.span().start(), block.span().end());
            let inside: Vec<usize> = (0..self.listed.len())
                .filter(|n| !self.done.contains(n))
                .filter(|&n| {
                    let m = &self.listed[n];
                    let at = (m.span.start.line, m.span.start.column - 1);
                    m.genre == "FnValue"
                        && at >= (first.line, first.column)
                        && at < (last.line, last.column)
                        // Not of a function in this one.
                        && m.function.as_ref().is_some_and(|f| f.function_name.ends_with(&sig.ident.to_string()))
                })
                .collect();
            for n in inside {
                let value = self.listed[n].replacement.clone();
                let text = format!(
                    "\n    if {}::is({}) {{ return {value}; }}",
                    self.question,
                    n + 1
                );
                debug_assert!(body.contains(&open));
                self.wrap(open..open, &[n], [text, String::new()]);
            }
        }
        before
    }
}

fn has_let(expr: &syn::Expr) -> bool {
    struct Lets(bool);
    impl<'a> Visit<'a> for Lets {
        fn visit_expr_let(&mut self, _: &'a syn::ExprLet) {
            self.0 = true;
        }
        fn visit_expr_closure(&mut self, _: &'a syn::ExprClosure) {}
        fn visit_block(&mut self, _: &'a syn::Block) {}
    }
    let mut lets = Lets(false);
    lets.visit_expr(expr);
    lets.0
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        let before = self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
        self.in_constant = before;
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        let before = self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
        self.in_constant = before;
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        let before = self.in_constant;
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
        self.in_constant = before;
    }

    fn visit_expr_binary(&mut self, e: &'a syn::ExprBinary) {
        use syn::BinOp::*;
        let numbers = self.take(e.op.span(), "BinaryOperator");
        let lets = has_let(&e.left) || has_let(&e.right);
        if let (Some(&first), false) = (numbers.first(), lets) {
            let range = self.lines.range(e.span());
            let op = self.lines.range(e.op.span());
            let old = self.lines.text[op.clone()].to_owned();
            let left = self.lines.range(e.left.span());
            let (prefix, middle, suffix) = match e.op {
                And(_) | Or(_) => {
                    // One replacement: the other of the two.
                    if numbers.len() != 1 {
                        return visit::visit_expr_binary(self, e);
                    }
                    let is = format!("{}::is({})", self.question, first + 1);
                    if matches!(e.op, And(_)) {
                        (
                            "(if (".to_owned(),
                            format!(") != {is} {{ "),
                            format!(" }} else {{ {is} }})"),
                        )
                    } else {
                        (
                            "(if (".to_owned(),
                            format!(") == {is} {{ "),
                            format!(" }} else {{ !{is} }})"),
                        )
                    }
                }
                Eq(_) | Ne(_) | Lt(_) | Le(_) | Gt(_) | Ge(_) => {
                    let arms = self.arms(&numbers, &old, |op| format!("*l {op} *r"));
                    let which = self.which(&numbers);
                    (
                        "(match (&(".to_owned(),
                        "), &(".to_owned(),
                        format!(")) {{ (l, r) => match {which} {{ {arms} }} }})"),
                    )
                }
                AddAssign(_) | SubAssign(_) | MulAssign(_) | DivAssign(_) | RemAssign(_)
                | BitXorAssign(_) | BitAndAssign(_) | BitOrAssign(_) | ShlAssign(_)
                | ShrAssign(_) => {
                    let target = self.lines.text[left.clone()].to_owned();
                    let arms = self.arms(&numbers, &old, |op| format!("{{ {target} {op} r; }}"));
                    let which = self.which(&numbers);
                    self.wrap(
                        range.clone(),
                        &numbers,
                        [
                            "(match (".to_owned(),
                            format!(") {{ r => match {which} {{ {arms} }} }})"),
                        ],
                    );
                    let wrap = self.wraps.last_mut().expect("it was just put there");
                    wrap.inside.push((left.start..op.end, String::new()));
                    // What is inside of the target is left alone.
                    return self.visit_expr(&e.right);
                }
                _ => {
                    let arms = self.arms(&numbers, &old, |op| format!("l {op} r"));
                    let which = self.which(&numbers);
                    (
                        "(match (".to_owned(),
                        ", ".to_owned(),
                        format!(") {{ (l, r) => match {which} {{ {arms} }} }})"),
                    )
                }
            };
            self.wrap(range, &numbers, [prefix, suffix]);
            let wrap = self.wraps.last_mut().expect("it was just put there");
            wrap.inside.push((op, middle));
        }
        visit::visit_expr_binary(self, e);
    }

    fn visit_expr_unary(&mut self, e: &'a syn::ExprUnary) {
        let numbers = self.take(e.op.span(), "UnaryOperator");
        if let Some(&n) = numbers.first() {
            let range = self.lines.range(e.span());
            let op = self.lines.range(e.op.span());
            let old = self.lines.text[op.clone()].to_owned();
            let is = format!("{}::is({})", self.question, n + 1);
            self.wrap(
                range,
                &numbers,
                [
                    "(match (".to_owned(),
                    format!(") {{ x => if {is} {{ x }} else {{ {old}x }} }})"),
                ],
            );
            let wrap = self.wraps.last_mut().expect("it was just put there");
            wrap.inside.push((op, String::new()));
        }
        visit::visit_expr_unary(self, e);
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        let deleted = self.take(arm.span(), "MatchArm");
        let is = |n: usize| format!("{}::is({})", self.question, n + 1);
        match (deleted.first().map(|&n| is(n)), &arm.guard) {
            (None, _) => {}
            (Some(is), None) => {
                let end = self.lines.range(arm.pat.span()).end;
                self.wrap(end..end, &deleted, [format!(" if !{is}"), String::new()]);
            }
            (Some(is), Some((_, guard))) => {
                let range = self.lines.range(guard.span());
                if !has_let(guard) {
                    self.wrap(range, &deleted, [format!("!{is} && ("), ")".to_owned()]);
                }
            }
        }
        if let Some((_, guard)) = &arm.guard {
            let numbers = self.take(guard.span(), "MatchArmGuard");
            if !numbers.is_empty() && !has_let(guard) {
                let range = self.lines.range(guard.span());
                let which = self.which(&numbers);
                let arms: String = numbers
                    .iter()
                    .zip(1..)
                    .map(|(&n, i)| format!("{i} => {}, ", self.listed[n].replacement))
                    .collect();
                let text = format!("match {which} {{ {arms}_ => (");
                self.wrap(range, &numbers, [text, ") }".to_owned()]);
            }
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, e: &'a syn::ExprStruct) {
        let rest = e.rest.as_ref().map(|rest| self.lines.range(rest.span()));
        for field in &e.fields {
            let numbers = self.take(field.span(), "StructField");
            let (Some(&n), Some(rest)) = (numbers.first(), &rest) else {
                continue;
            };
            // Without it, it is that of the rest.
            let (syn::Member::Named(name), rest) = (&field.member, &self.lines.text[rest.clone()])
            else {
                continue;
            };
            let name_of = match field.colon_token {
                Some(_) => String::new(),
                None => format!("{name}: "),
            };
            let is = format!("{}::is({})", self.question, n + 1);
            let prefix = format!("{name_of}(if {is} {{ ({rest}).{name} }} else {{ ");
            let range = self.lines.range(field.expr.span());
            self.wrap(range, &numbers, [prefix, " })".to_owned()]);
        }
        visit::visit_expr_struct(self, e);
    }

    // What a constant is made of cannot ask.
    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        let before = std::mem::replace(&mut self.in_constant, true);
        visit::visit_item_const(self, item);
        self.in_constant = before;
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        let before = std::mem::replace(&mut self.in_constant, true);
        visit::visit_impl_item_const(self, item);
        self.in_constant = before;
    }

    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        let before = std::mem::replace(&mut self.in_constant, true);
        visit::visit_item_static(self, item);
        self.in_constant = before;
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }
}

/// `text` with all of `listed` in it for which there is a way, but for those that
/// `without` names.
pub fn switched(
    text: &str,
    listed: &[Listed],
    file: &str,
    without: &BTreeSet<usize>,
    constant: &BTreeSet<String>,
) -> Result<Switched> {
    let parsed = syn::parse_file(text).with_context(|| file.to_owned())?;
    let mut wanted: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    let mut none = listed.to_vec();
    for (n, m) in listed.iter().enumerate() {
        if m.file == file && !without.contains(&n) {
            let start = m.span.start;
            wanted
                .entry((start.line, start.column))
                .or_default()
                .push(n);
        } else {
            none[n].genre.clear();
        }
    }
    let mut finder = Finder {
        lines: Lines::new(text),
        wanted,
        listed: &none,
        constant,
        question: if file.starts_with("arch/") {
            "crate::mutation"
        } else {
            "arch::mutation"
        },
        wraps: Vec::new(),
        blank: Vec::new(),
        done: BTreeSet::new(),
        in_constant: false,
    };
    finder.visit_file(&parsed);
    let Finder {
        wraps, blank, done, ..
    } = finder;

    // What stands at an offset: ends of what is inside first, then beginnings of
    // what is outside.
    let mut pieces: Vec<(usize, u8, usize, usize, String)> = Vec::new();
    let mut gone: Vec<(Range<usize>, String)> = Vec::new();
    for (i, wrap) in wraps.iter().enumerate() {
        let Range { start, end } = wrap.range;
        if start == end {
            pieces.push((start, 1, i, i, wrap.prefix.clone()));
            continue;
        }
        pieces.push((start, 2, usize::MAX - end, i, wrap.prefix.clone()));
        pieces.push((
            end,
            0,
            usize::MAX - start,
            usize::MAX - i,
            wrap.suffix.clone(),
        ));
        gone.extend(wrap.inside.iter().cloned());
    }
    gone.extend(blank.into_iter().map(|range| (range, String::new())));
    pieces.sort();
    gone.sort_by_key(|(range, _)| range.start);

    let mut out = String::new();
    let mut starts = BTreeMap::new();
    let mut ends = BTreeMap::new();
    let mut at = 0;
    let mut gone = gone.into_iter().peekable();
    let mut copy = |out: &mut String, to: usize| {
        while at < to {
            match gone.next_if(|(range, _)| range.start < to) {
                Some((range, new)) => {
                    out.push_str(&text[at..range.start]);
                    out.push_str(&new);
                    at = range.end;
                }
                None => {
                    out.push_str(&text[at..to]);
                    at = to;
                }
            }
        }
    };
    for (offset, kind, _, i, piece) in pieces {
        copy(&mut out, offset);
        let wrap = if kind == 0 { usize::MAX - i } else { i };
        if kind != 0 {
            starts.insert(wrap, out.len());
        }
        out.push_str(&piece);
        if kind != 2 {
            ends.insert(wrap, out.len());
        }
    }
    copy(&mut out, text.len());
    ensure!(
        starts.len() == wraps.len() && ends.len() == wraps.len(),
        "{file}"
    );
    let places = wraps
        .iter()
        .enumerate()
        .map(|(i, wrap)| (starts[&i]..ends[&i], wrap.mutants.clone()))
        .collect();
    Ok(Switched {
        text: out,
        places,
        done,
    })
}
