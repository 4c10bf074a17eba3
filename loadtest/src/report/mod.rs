//! Tables and plots of a comparison.
