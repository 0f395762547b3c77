//! Tables that turn into cards on a narrow window: each cell knows the title of its column.

use maud::{Markup, html};

/// A column: its title, and whether it holds numbers.
pub(crate) type Column = (&'static str, bool);

/// A table; the first cell of a row names it.
pub(crate) fn table(caption: &str, columns: &[Column], rows: &[Vec<Markup>]) -> Markup {
    html! {
        table {
            caption { (caption) }
            thead {
                tr {
                    @for (title, is_number) in columns {
                        th scope="col" class=[is_number.then_some("number")] { (title) }
                    }
                }
            }
            tbody {
                @for row in rows {
                    tr {
                        @for (place, (cell, (title, is_number))) in row.iter().zip(columns).enumerate() {
                            @if place == 0 {
                                th scope="row" data-title=(title) { div { (cell) } }
                            } @else {
                                td data-title=(title) class=[is_number.then_some("number")] { div { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
