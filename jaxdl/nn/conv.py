from flax.linen import Conv
