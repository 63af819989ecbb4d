"""The arithmetic that a network asks for, by formula; no torch."""

from __future__ import annotations


def block_macs(tokens: int, width: int) -> int:
    """Multiply-adds of one transformer block: qkv, attention, projection and an MLP of ratio 4."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def transformer_macs(
    *, tokens: int, width: int, blocks: int, in_dim: int, out_dim: int, conditioning: int, frequencies: int = 256
) -> int:
    """Multiply-adds of one image's forward pass through the Diffusion Transformer, conditioning included.

    The published figures of DiT and timm, there called FLOPs, are multiply-adds too.
    """
    time = frequencies * conditioning + conditioning**2
    modulation = conditioning * width * (6 * blocks + 2)
    return (
        blocks * block_macs(tokens, width)
        + tokens * width * (in_dim + out_dim)
        + (time + modulation if conditioning else 0)
    )


def vit_macs(*, tokens: int, width: int, blocks: int, in_dim: int, classes: int) -> int:
    """Multiply-adds of one image through a Vision Transformer with a class token and a linear head.

    `tokens` counts the patches alone.
    """
    return blocks * block_macs(tokens + 1, width) + tokens * width * in_dim + width * classes


def mae_macs(*, tokens: int, width: int, blocks: int, in_dim: int, decoder_width: int, decoder_blocks: int) -> int:
    """Multiply-adds of one image through MAE: a quarter of its tokens through the encoder, all through the decoder."""
    kept = max(1, tokens // 4)
    return (
        blocks * block_macs(kept, width)
        + tokens * width * in_dim
        + kept * width * decoder_width
        + decoder_blocks * block_macs(tokens, decoder_width)
        + tokens * decoder_width * in_dim
    )


def moco_macs(*, tokens: int, width: int, blocks: int, in_dim: int, hidden: int, out: int) -> int:
    """Multiply-adds of one image through MoCo v3: two views with gradients, and two without, which cost a third."""
    encoder = blocks * block_macs(tokens, width) + tokens * width * in_dim
    projector = width * hidden + hidden * hidden + hidden * out
    predictor = out * hidden + hidden * out
    return 2 * (encoder + projector + predictor) + round(2 / 3 * (encoder + projector))
