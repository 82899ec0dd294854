//! `template`: the recipes of root filesystems, and building their images ahead of time.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::{Fault, Result};
use super::progress::Teller;
use super::render::{Cell, safe};
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::TemplateRef;
use crate::storage::{self, Kind, OptionSpec, Template};

pub(super) const TEMPLATE: Verb = Verb {
    name: "template",
    about: "List templates, show one, build its image",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List templates"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a template and its options")
                    .arg(template()),
            )
            .subcommand(
                building(Command::new("build"))
                    .about("Build a template's image now, so that `create` need not"),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("info", matches)) => info(context, matches),
        Some(("build", matches)) => build(context, matches),
        _ => list(context),
    },
    hidden: false,
};

/// The arguments of `template build` and `image build`, which are the same.
pub(super) fn building(command: Command) -> Command {
    command
        .arg(template())
        .arg(
            Arg::new("option")
                .long("option")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("Option of the template, such as suite=trixie"),
        )
        .arg(dry_run())
}

fn template() -> Arg {
    Arg::new("template")
        .value_name("TEMPLATE")
        .required(true)
        .help("Name of the template")
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    kind: Kind,
    description: &'a str,
    options: &'a BTreeMap<String, OptionSpec>,
}

impl<'a> From<&'a Template> for Shown<'a> {
    fn from(template: &'a Template) -> Self {
        Self {
            name: &template.name,
            kind: template.kind,
            description: &template.description,
            options: &template.options,
        }
    }
}

fn list(context: &Context) -> Result<u8> {
    let templates = context.manager()?.templates()?;
    let all: Vec<Shown<'_>> = templates.iter().map(Shown::from).collect();
    context.list(&all, &["NAME", "DESCRIPTION"], |template| {
        vec![Cell::from(template.name), Cell::from(template.description)]
    })?;
    Ok(0)
}

fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let templates = context.manager()?.templates()?;
    let template = templates.get(&required::<String>(matches, "template")?)?;
    context.one(&Shown::from(template), |_| {
        let mut text = format!(
            "{}: {}\n",
            safe(&template.name),
            safe(&template.description)
        );
        for (name, option) in &template.options {
            let default = match option.default.as_str() {
                "" => String::new(),
                value => format!(" [default: {value}]"),
            };
            text += &format!(
                "  {}: {}\n",
                safe(name),
                safe(&(option.help.clone() + &default))
            );
        }
        text
    })?;
    Ok(0)
}

#[derive(Serialize)]
struct Built<'a> {
    template: &'a str,
    image: &'a str,
    size: u64,
    files: u64,
}

/// Builds a template's image.
pub(super) fn build(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let mut options = BTreeMap::new();
    for pair in matches.get_many::<String>("option").into_iter().flatten() {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Fault::usage(format!("--option {pair:?}: write NAME=VALUE")));
        };
        options.insert(name.to_owned(), value.to_owned());
    }
    let wanted = TemplateRef {
        name: required(matches, "template")?,
        options,
    };
    let manager = context.manager()?;
    let templates = manager.templates()?;
    if matches.get_flag("dry-run") {
        let (template, options) = templates.resolve(&wanted)?;
        let options: Vec<String> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
        context.done(&safe(&format!(
            "would build {} {}",
            template.name,
            options.join(" ")
        )))?;
        return Ok(0);
    }
    interrupt::catch()?;
    if let Some(image) = storage::built_image(&manager.layout, &templates, &wanted)? {
        // One that is damaged is marked by this, and built again.
        let _marked = storage::is_whole(&manager.layout, &image);
    }
    let mut teller = Teller::new(context.quiet);
    let image = storage::ensure_image(&manager.layout, &templates, &wanted, &mut |step| {
        teller.tell(step);
    });
    drop(teller);
    let image = image.map_err(|error| Fault::from(error).or_interrupted())?;
    let built = Built {
        template: &image.template,
        image: &image.digest,
        size: image.size,
        files: image.files,
    };
    context.one(&built, |_| {
        let size = bytes_text(image.size);
        format!(
            "{}: image {}, {size} in {} files\n",
            image.template, image.digest, image.files
        )
    })?;
    Ok(0)
}
