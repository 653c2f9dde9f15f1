"""Generation that runs each prompt only once: prefill, shared-prompt decoding and per-row sampling."""
