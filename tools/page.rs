//! `shm-dump report`: what was recorded of an instance as one page for a browser, which holds all it needs and loads nothing.
//!
//! Every text goes through the escaping of `maud`, and names and errors through [`plain`](sheet::plain) before that: they come
//! from memory that others write. The page allows no script and no load by its own content policy.
//!
//! Pictures are SVG with places across in percent and heights in pixels, so that they are as wide as the window and their texts
//! stay as large as all others. Colours come from the style sheet, which follows the reader's choice of light or dark; what a colour
//! says stands beside it in words or letters.

mod axis;
mod failure;
mod file;
mod handlers;
mod head;
mod lanes;
mod moments;
mod parts;
mod sheet;
mod slow;
mod table;
mod timeline;
mod workers;

use executor_shm::inspect::{Inspection, Recorded};
use maud::{DOCTYPE, PreEscaped, html};

pub(crate) use file::{PageError, write_page};
pub(crate) use sheet::Taken;

use self::sheet::Sheet;

const STYLE: &str = include_str!("page/page.css");

/// The page of an instance and of what was recorded of it.
pub(crate) fn page(view: &Inspection, recorded: &Recorded, taken: &Taken) -> String {
    let sheet = Sheet { view, recorded, taken };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "Executor instance " (view.instance) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head::section(&sheet))
                main {
                    (workers::section(&sheet))
                    (handlers::section(&sheet))
                    (timeline::section(&sheet))
                    (lanes::section(&sheet))
                    (slow::section(&sheet))
                    (failure::section(&sheet))
                }
                (head::footer(&sheet))
            }
        }
    };
    page.into_string()
}
