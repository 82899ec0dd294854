//! `image info` and `image history`: one image in full, and how it came about. The other sub-verbs
//! are in `image`.

use std::collections::BTreeMap;

use clap::ArgMatches;
use serde::Serialize;

use super::command::required;
use super::context::Context;
use super::fault::Result;
use super::render::{Cell, safe};
use crate::guest::view::bytes_text;
use crate::model::{Layout, clock};
use crate::storage::{self, Image, ImageConfig, ImageError, Tag};

/// An image as `list` and `info` show it.
#[derive(Serialize)]
pub(super) struct Shown {
    pub(super) names: Vec<String>,
    pub(super) digest: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    template: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
    pub(super) size: u64,
    pub(super) files: u64,
    pub(super) created_ms: u64,
    layers: Vec<String>,
    pub(super) guests: Vec<String>,
    pub(super) damaged: Option<String>,
}

impl Shown {
    /// With its names among `tags`, and its guests.
    pub(super) fn of(layout: &Layout, image: &Image, tags: &[Tag]) -> Result<Self> {
        let own = tags.iter().filter(|tag| tag.digest == image.digest);
        let guests = storage::image_users(layout, image).map_err(ImageError::from)?;
        Ok(Self {
            names: own.map(|tag| tag.name.to_string()).collect(),
            digest: image.digest.clone(),
            template: image.template.clone(),
            source: image.source.clone(),
            size: image.size,
            files: image.files,
            created_ms: image.created_ms,
            layers: image.layers.clone(),
            guests,
            damaged: storage::check_sound(image).err().map(|e| e.to_string()),
        })
    }

    /// What it was made from, for people.
    pub(super) fn from(&self) -> String {
        match self.template.as_str() {
            "" => self.source.clone(),
            template => format!("template {template}"),
        }
    }
}

/// When, for people.
pub(super) fn date(ms: u64) -> String {
    clock::time(ms)
}

#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    shown: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<ImageConfig>,
    options: BTreeMap<String, String>,
    init: storage::InitKind,
    command: Vec<String>,
    stop_signal: String,
}

pub(super) fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let image = storage::find_image(layout, &required(matches, "image")?)?;
    let tags = storage::tags(layout).map_err(ImageError::from)?;
    let whole = Whole {
        shown: Shown::of(layout, &image, &tags)?,
        config: image.config.clone(),
        options: image.options.clone(),
        init: image.init,
        command: image.command.clone(),
        stop_signal: image.stop_signal.clone(),
    };
    context.one(&whole, |_| in_words(&whole))?;
    Ok(0)
}

fn in_words(whole: &Whole) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            text += &format!("{name:<12}{}\n", safe(value));
        }
    };
    let shown = &whole.shown;
    add("names", &shown.names.join(", "));
    add("digest", &shown.digest);
    add("from", &shown.from());
    let options = whole.options.iter().map(|(k, v)| format!("{k}={v}"));
    add("options", &options.collect::<Vec<_>>().join(" "));
    let size = bytes_text(shown.size);
    add("size", &format!("{size} in {} files", shown.files));
    add("made", &date(shown.created_ms));
    if !shown.layers.is_empty() {
        add("layers", &shown.layers.len().to_string());
    }
    add("command", &whole.command.join(" "));
    add("stop signal", &whole.stop_signal);
    if let Some(config) = &whole.config {
        add("user", &config.user);
        add("folder", &config.directory);
        add("ports", &config.ports.join(", "));
        add("volumes", &config.volumes.join(", "));
        for variable in &config.environment {
            add("environment", variable);
        }
        for (name, value) in &config.labels {
            add("label", &format!("{name}={value}"));
        }
    }
    add("guests", &shown.guests.join(", "));
    add("damaged", shown.damaged.as_deref().unwrap_or_default());
    text
}

/// A step of how an image came about.
#[derive(Serialize)]
struct Step {
    layer: Option<String>,
    size: Option<u64>,
    by: String,
}

pub(super) fn history(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let image = storage::find_image(layout, &required(matches, "image")?)?;
    let mut layers = image.layers.iter().rev();
    let mut next = |by: String| -> Result<Step> {
        let layer = layers.next();
        let known = match layer {
            Some(digest) => storage::load_layer(layout, digest)?,
            None => None,
        };
        Ok(Step {
            layer: layer.cloned(),
            size: known.map(|layer| layer.size),
            by,
        })
    };
    let mut steps = Vec::new();
    for step in image.config.iter().flat_map(|config| &config.history) {
        let by = match step.created_by.as_str() {
            "" => step.comment.clone(),
            by => by.to_owned(),
        };
        if step.empty_layer {
            steps.push(Step {
                layer: None,
                size: None,
                by,
            });
        } else {
            steps.push(next(by)?);
        }
    }
    // A history may be missing, or end before its layers do.
    while steps.iter().filter(|step| step.layer.is_some()).count() < image.layers.len() {
        steps.push(next(String::new())?);
    }
    if image.layers.is_empty() {
        let options = image.options.iter().map(|(k, v)| format!(" {k}={v}"));
        let by = match image.template.as_str() {
            "" => image.source.clone(),
            template => format!("template {template}{}", options.collect::<String>()),
        };
        steps.push(Step {
            layer: None,
            size: Some(image.size),
            by,
        });
    }
    context.list(&steps, &["LAYER", "SIZE", "BY"], |step| {
        let layer = step.layer.as_deref().and_then(|digest| digest.get(..12));
        vec![
            Cell::from(layer.unwrap_or("-")),
            Cell::from(step.size.map_or_else(|| "-".to_owned(), bytes_text)),
            Cell::from(step.by.as_str()),
        ]
    })?;
    Ok(0)
}
