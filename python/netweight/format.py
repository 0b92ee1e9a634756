"""Which archives this version reads."""

METHOD = "netweight"  # quantization_config.quant_method in config.json
FORMAT = 2  # The newest.


def check_format(number: object) -> int:
    """`quantization_config.format`, if this version reads it.

    Raises:
        ValueError: it does not; the message says what to do.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(
            f"config.json: quantization_config.format is {number!r}, not the number of a format: "
            "compress the checkpoint anew with `netweight compress`"
        )
    if number > FORMAT:
        raise ValueError(
            f"the archive has format {number}, this netweight reads up to {FORMAT}: `pip install --upgrade netweight`"
        )
    return number
