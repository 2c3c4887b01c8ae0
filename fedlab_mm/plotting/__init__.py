"""Pictures of what the other modules compute. Each function returns a matplotlib figure, closed for pyplot: a notebook
shows it once, as the value of its cell, and a script calls `figure.savefig`."""

from fedlab_mm.plotting.ablation import plot_changes, plot_sampling, plot_variants
from fedlab_mm.plotting.clicks import plot_attention, plot_clicks, plot_shares, plot_showings, plot_sweeps
from fedlab_mm.plotting.data import plot_long_tail, plot_matrix, plot_rules, plot_similarities, plot_timeline
from fedlab_mm.plotting.fusion import plot_bands, plot_before_after, plot_reliance
from fedlab_mm.plotting.gap import plot_gap, plot_gap_rounds, plot_gap_users, project
from fedlab_mm.plotting.groups import plot_clouds, plot_memberships
from fedlab_mm.plotting.items import draw_cover, plot_items, plot_recommendations, plot_titles
from fedlab_mm.plotting.privacy import plot_defences, plot_line, plot_noise, plot_privacy, plot_tradeoffs
from fedlab_mm.plotting.reported import plot_counts
from fedlab_mm.plotting.runs import plot_comparison, plot_learning_curves, plot_router_groups, plot_router_rounds
from fedlab_mm.plotting.solved import plot_rounds, plot_solved
from fedlab_mm.plotting.training import plot_frames, plot_paths, plot_ranks, plot_series, plot_traffic
from fedlab_mm.plotting.users import (
    plot_activity,
    plot_figures,
    plot_groups,
    plot_heterogeneity,
    plot_numbers,
    plot_power,
    plot_preferences,
)
