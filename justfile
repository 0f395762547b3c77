# The words of `.ci/run`, which is where the steps themselves stand; `just` is a convenience.

# Every step, as continuous integration runs them.
ci *steps:
    .ci/run {{steps}}

# Formatting.
fmt:
    .ci/run fmt

# Lints, warnings denied.
clippy:
    .ci/run clippy

# Documentation, warnings denied.
doc:
    .ci/run doc

# The README's test command.
test:
    .ci/run test

# Every interleaving of the atomics, under loom.
loom:
    .ci/run loom

# The README's demo, its result checked.
demo:
    .ci/run demo

# Faults on purpose, and whether a test sees each.
mutants:
    .ci/run mutants

# The benches compile.
bench-smoke:
    .ci/run bench-smoke

# The tests and the demo again, as an unprivileged user (needs root).
unprivileged:
    .ci/run unprivileged

# Cargo.lock is committed and up to date.
lock:
    .ci/run lock

# Licences, advisories and sources of the dependencies (needs cargo-deny).
deny:
    .ci/run deny
