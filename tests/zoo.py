"""What the batteries know of each model: counts from elsewhere, and a small form to run."""

# Parameters with 1000 classes at 3 channels: torchvision's published counts, exactly.
GOLDEN = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
}

# In millions, as timm's results-imagenet.csv prints them.
ROUNDED = {
    "resnext101_32x4d": "44.18",
    "seresnet18": "11.78",
    "seresnet34": "21.96",
    "seresnet50": "28.09",
    "seresnet101": "49.33",
    "seresnet152": "66.82",
    "seresnext50_32x4d": "27.56",
    "seresnext101_32x4d": "48.96",
    "seresnext101_32x8d": "93.57",
    "seresnext101_64x4d": "88.23",
}

# One of each structure, walked with real numbers: image size, and arguments that make it small.
BUILT = {
    "mlp": (32, {}),
    "cnn": (32, {}),
    "lenet5": (32, {}),
    "resnet20": (32, {}),
    "resnet18": (32, {"width": 8}),
    "resnet50": (32, {"width": 8}),
    "resnext50_32x4d": (32, {"width": 16, "groups": 4, "group_width": 16}),
    "seresnet50": (32, {"width": 8}),
    "efficientnet_b0": (32, {"width": 0.25, "depth": 0.5}),
}
