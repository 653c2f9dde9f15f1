"""Generation that runs each prompt once: prefill, shared-prefix decoding, per-row sampling."""
