//! Scenarios of the node: to come.
