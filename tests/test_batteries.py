"""Batteries keep their size: no (entry, check) pair is lost to make tests quicker."""

import pytest
from conftest import COLLECTED, WHOLE

# Cases of each check over a table or a registry, as many as there were when lanes were cut.
LEAST = {
    "tests/test_augment.py": {
        "test_a_key_gives_the_same_pixels_on_one_device_and_on_eight": 36,
        "test_an_augmentation_says_whose_idea_it_is": 36,
        "test_shape_and_other_keys_are_kept": 144,
    },
    "tests/test_chaos_numbers.py": {
        "test_no_optimizer_swallows_nan": 16,
    },
    "tests/test_combinations.py": {
        "test_what_is_out_of_range_is_refused_by_name_before_compiling": 16,
    },
    "tests/test_conv.py": {
        "test_poolings_on_cpu_are_those_of_flax": 18,
        "test_the_chooser_picks_what_was_measured_to_be_quickest": 40,
        "test_value_and_first_derivatives_equal_lax": 40,
    },
    "tests/test_embedding.py": {
        "test_triplet_by_loops": 18,
    },
    "tests/test_features.py": {
        "test_a_config_line_is_valid": 135,
    },
    "tests/test_flops.py": {
        "test_known_models": 24,
    },
    "tests/test_gradient_transforms.py": {
        "test_keeps_types_and_shapes": 18,
    },
    "tests/test_hub_archives.py": {
        "test_a_hostile_archive_is_refused": 20,
        "test_a_hostile_npz_is_refused": 20,
        "test_a_hostile_safetensors_file_is_refused": 23,
    },
    "tests/test_hub_pickles.py": {
        "test_a_hostile_pickle_is_refused": 132,
        "test_a_number_in_a_file_is_no_allocation": 40,
        "test_what_a_pickle_asks_for_is_refused_by_name": 76,
    },
    "tests/test_layers.py": {
        "test_activation": 16,
    },
    "tests/test_metrics.py": {
        "test_calibration_by_a_loop_over_bins": 16,
    },
    "tests/test_models.py": {
        "test_backbone_and_head_are_apart": 83,
        "test_every_parameter_gets_a_gradient": 32,
        "test_every_product_of_a_training_step_is_in_the_compute_type": 32,
        "test_inference_is_per_example_and_vmaps": 32,
        "test_no_bias_stands_before_a_batch_norm": 83,
        "test_parameters_equal_the_published_count": 52,
    },
    "tests/test_namings.py": {
        "test_every_tensor_has_a_name_of_its_own": 105,
        "test_names_and_shapes_are_the_publishers": 98,
    },
    "tests/test_optim.py": {
        "test_decay_shrinks_exactly_the_named_leaves": 16,
        "test_descends_without_a_second_trace": 64,
        "test_equals_torch": 16,
        "test_keeps_types": 128,
        "test_zero_gradients_are_harmless": 64,
    },
    "tests/test_pillow.py": {
        "test_enhancements": 24,
    },
    "tests/test_references.py": {
        "test_equal_to_the_reference": 27,
    },
    "tests/test_registry.py": {
        "test_every_entry_can_be_described": 411,
        "test_every_entry_is_documented_and_checkable": 411,
        "test_every_room_offers_something": 27,
    },
    "tests/test_run.py": {
        "test_a_shipped_config_builds_and_takes_a_step": 23,
        "test_a_shipped_config_keeps_its_promise_to_be_json": 23,
    },
    "tests/test_schedules.py": {
        "test_defaults_are_factors_of_any_run": 56,
        "test_mistakes_are_named": 16,
        "test_step_by_period": 21,
    },
    "tests/test_sizes.py": {
        "test_multiply_adds_are_the_published_ones_at_the_same_size": 24,
        "test_parameters_are_the_published_ones": 52,
    },
    "tests/test_sources.py": {
        "test_splits_mean_what_they_mean_to_tfds": 203,
    },
}


@pytest.mark.parametrize(
    ("file", "check"), [(file, check) for file, checks in LEAST.items() for check in checks]
)
def test_a_battery_keeps_its_pairs(request, file, check):
    if request.config.stash[WHOLE]:  # a part of the tests has a part of the cases
        assert request.config.stash[COLLECTED][f"{file}::{check}"] >= LEAST[file][check]


def test_the_files_of_the_batteries_are_there(request):
    for file in LEAST:
        assert (request.config.rootpath / file).is_file()
