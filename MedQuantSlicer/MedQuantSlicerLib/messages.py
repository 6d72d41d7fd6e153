"""The words of the presenter, in one place to be translated."""

from __future__ import annotations

try:
    from slicer.i18n import tr as _  # there in Slicer only
except ImportError:

    def _(text: str) -> str:
        return text


# -- the engine

STOPPED = _("Stopped.")
ENGINE_HANGS = _("The engine did not answer any more and was ended. Try again; it starts anew by itself.")
ENGINE_ENDED = _("The engine ended unexpectedly. Try again; it starts anew by itself. The log tells more.")
ENGINE_NOT_STARTED = _("The engine could not be started. Look into the log, or install the extension again.")
ENGINE_OUT_OF_MEMORY = _(
    "The system ended the engine, most likely because memory ran out. Close other programs, cut the scan to the part "
    "of interest, or take a smaller model."
)
NOT_INSTALLED = _("The engine's packages are not installed. Press the button again to install them.")

# -- buttons

CANCEL = _("Cancel")
CANCEL_TIP = _("Stop; what was there before stays.")
STOPPING = _("Stopping")
NOT_STARTED = _("The packages are installed. Another scan is chosen by now: press the button again.")
INSTALLING = _("Installing what the engine needs")
STARTING = _("Starting")
HANDING_OVER = _("Handing over the scan")

TEXTS = {
    "add_weights": _("Add weights..."),
    "download": _("Download"),
    "clear_cache": _("Clear"),
    "open_cache": _("Open folder"),
    "quantize": _("Quantize"),
    "find_safe": _("Find the smallest safe model"),
    "place_box": _("Place box"),
    "box_from_segment": _("Box from segment"),
    "segment": _("Segment"),
    "compare": _("Compare"),
    "jump_to_worst": _("Jump to the slice that differs most"),
    "difference": _("Show difference"),
    "save_report": _("Save report..."),
    "find_sensitivity": _("Find sensitive layers"),
    "keep_precise": _("Keep at 8 bits"),
    "forget_wishes": _("Keep none precise"),
    "export": _("Export..."),
    "open_exported": _("Open folder"),
    "open_log": _("Open log"),
    "cancel": CANCEL,
}
TIPS = {
    "add_weights": _("A MedSAM file or folder, an nnU-Net results folder, or a quantized model."),
    "download": _("Fetch the model's weights once; they stay on this machine."),
    "clear_cache": _("Remove what was compiled and quantized on this machine; downloads and exports stay."),
    "open_cache": _("Show the folder of what is kept to start faster."),
    "quantize": _("Make the model smaller, fitted on slices of this scan. The scan is neither labelled nor stored."),
    "find_safe": _(
        "Give each layer as few bits as the masks allow: candidates are quantized, and checked on slices of this scan "
        "that did not calibrate them. Activations stay in floating point. Takes minutes."
    ),
    "place_box": _("Draw a box around a structure (B)."),
    "box_from_segment": _("Put a box around the selected segment."),
    "segment": _("Segment what lies in the boxes (S)."),
    "segment_automatic": _("Segment the whole scan (S)."),
    "compare": _("Compare the masks, with the reference where one is chosen."),
    "jump_to_worst": _("Show the slice in which the masks differ most."),
    "difference": _("What only FP32 and only the quantized model have, as a segmentation of its own (D)."),
    "save_report": _("Write the comparison to a page that prints well. It names no patient."),
    "find_sensitivity": _("Round every layer of the model and measure what that does, as chosen below."),
    "keep_precise": _("Give the chosen layer more bits the next time the model is quantized."),
    "forget_wishes": _("Let the recipe decide about every layer again."),
    "export": _("Write the quantized model to files that other programs open."),
    "open_exported": _("Show the folder that was written last."),
    "open_log": _("Show what the engine wrote about this."),
    "cancel": CANCEL_TIP,
}
USE_SAFE = _("Use the smallest safe model")
USE_SAFE_TIP = _("It was found already for this scan and what is to be kept.")
SAFE_FITS = _("It is chosen. Press to look for it once more.")
SAFE_MISSING = _(
    "Not looked for yet with these choices: scan, model, what is to be kept, method, and layers in floating point. "
    "Find it, or choose the bits."
)
UNEVEN = _("It keeps the mean that was asked; the lowest Dice or the volumes are clearly worse.")
COMPARE_DECIDES = _("No other slices were looked at: segment and compare, that decides.")
NO_LONGER_PRECISE = _("Do not keep precise")
HIDE_DIFFERENCE = _("Hide difference")

# -- what is missing

NEED_SCAN = _("Open a scan first.")
NEED_REST = _("Wait for what is running, or cancel it.")
NEED_MODEL = _("Choose a model first.")
NEED_WEIGHTS = _("Its weights are not on this machine: download them, or add them from a file.")
NEED_QUANTIZED = _("Quantize the model first.")
NEED_QUANTIZED_OR_FP32 = _("Quantize the model first, or choose to segment with FP32 only.")
NEED_BOX = _("Place a box around a structure first.")
NEED_NO_BOX = _("This model finds the structures by itself and takes no box.")
NEED_BOTH = _("Segment with FP32 and with the quantized model first.")
NEED_COMPARISON = _("Compare the masks first.")
NO_DIFFERENCE = _("The masks are the same in every slice.")
NEED_LAYER = _("Click on a layer of the heatmap first.")
NO_WISHES = _("No layer is kept precise.")
IS_QUANTIZED = _("This model is quantized already.")
FITS_ELSEWHERE = _("The model was calibrated on another scan. Press to calibrate it on this one.")
FITS = _("The model is quantized with these settings already. Press to do it once more.")
NOTHING_EXPORTED = _("Nothing was exported yet.")
NOTHING_CACHED = _("Nothing is known of the cache before the engine has run.")
NO_LOG = _("There is no log.")
CANNOT_DOWNLOAD = _("This model is not to be downloaded.")
NOTHING_RUNS = _("Nothing is running.")

# -- what is out of date

STALE = _("Masks or reference have changed since. Compare again.")
STALE_NOTE = _("These numbers are of before that change.")
EDITED = _("edited")
ASK_REPLACE = _("Masks were edited by hand. Segmenting replaces them. Go on?")

# -- next steps

HINT_OPEN = _("Open a scan: drop a DICOM folder here, or open the sample CT.")
HINT_DOWNLOAD = _("Download the model, or add its weights.")
HINT_QUANTIZE = _("Choose the bits, then quantize.")
HINT_FIND_SAFE = _("Find the smallest safe model, or choose the bits yourself.")
HINT_BOX = _("Place a box around a structure.")
HINT_PLACING = _("Click two opposite corners of the structure in a view. Esc stops.")
HINT_SEGMENT = _("Segment, or drag the box first to where the structure begins and ends.")
HINT_SEGMENT_ALL = _("Segment with both models.")
HINT_COMPARE = _("Compare the masks.")
HINT_LOOK = _("Look where the masks differ most.")
HINT_DIFFERENCE = _("Show what only one of the models has.")
HINT_DONE = _("Done. Save the report, or try other bits.")
HINT_SAME = _("The masks are the same. Try fewer bits.")

# -- results and questions

NOT_MEASURED = _("not measured")
NOT_QUANTIZED = _("no quantized model")
DEMONSTRATION = _("demonstration")
MEASURED_ALL = _("All layers are measured.")
TOLERANCES = {
    "dice-99": _("mean Dice at least .99"),
    "dice-98": _("mean Dice at least .98"),
    "dice-95": _("mean Dice at least .95"),
    "volume-1": _("volumes within 1 % and mean Dice at least .95"),
}


def left(minutes: int, seconds: int) -> str:
    """The time left."""
    return _("{minutes}:{seconds:02d} left").format(minutes=minutes, seconds=seconds)


def part(title: str, number: int, count: int, text: str) -> str:
    """What happens, and which of several models it is about."""
    return _("{title} ({number} of {count}): {text}").format(title=title, number=number, count=count, text=text)


def boxes(count: int, names: str) -> str:
    """How many boxes there are."""
    if not count:
        return _("no box")
    return (_("1 box: {names}") if count == 1 else _("{count} boxes: {names}")).format(count=count, names=names)


def bits(number: int) -> str:
    """ "4-bit", "FP32"; 0: those that a search gives the layers."""
    if not number:
        return _("2 to 8 bits")
    return "FP32" if number >= 32 else _("{number}-bit").format(number=number)


def kept_at(number: int) -> str:
    """How precise a layer is kept."""
    return _("kept in floating point") if number >= 32 else _("kept at {number} bits").format(number=number)


def ask_download(title: str, size: str) -> str:
    """Before anything is fetched."""
    return _(
        "Download {title} ({size}) from huggingface.co? It is kept on this machine; nothing is sent but the request. "
        "Without a network, get the file elsewhere and use Add weights."
    ).format(title=title, size=size)


def ask_clear(text: str) -> str:
    """Before the cache is cleared."""
    return _(
        "Remove what was compiled for this machine, and quantized models that were not exported ({text})? All of it is "
        "made again when it is needed, quantized models by quantizing."
    ).format(text=text)


def fault(what: str) -> str:
    """A mistake of ours."""
    return _("Unexpected error: {what}. This is a fault of MedQuant; please report it with the log.").format(what=what)


def cannot_hand_over(reason: str) -> str:
    """The scan could not be written to the engine's folder."""
    return _(
        "The scan could not be handed to the engine ({reason}). Free some space on the disk and try again."
    ).format(reason=reason)


def downloaded(title: str) -> str:
    return _("{title} is on this machine now.").format(title=title)


def added(title: str) -> str:
    return _("{title} was added.").format(title=title)


def quantized(number: int, text: str, pieces: int, is_here: bool | None) -> str:
    """What the quantized model is. `is_here`: whether it was calibrated on the chosen scan; None: not known."""
    words = [f"{bits(number)}: {text}"]
    if is_here is False:
        words.append(_("calibrated on another scan"))
    elif pieces:
        count = _("1 piece") if pieces == 1 else _("{count} pieces").format(count=pieces)
        where = _("calibrated on {count} of this scan") if is_here else _("calibrated on {count} of a scan")
        words.append(where.format(count=count))
    return ", ".join(words)


def export(number: int) -> str:
    """What would be exported."""
    return _("Export {bits}...").format(bits=bits(number))


def saved(path: str) -> str:
    return _("Saved: {path}").format(path=path)


def layer(name: str, kind: str, shape: str, share: str) -> str:
    """What is known of a layer."""
    return _("{name}: {kind} {shape}, {share} of the weights.").format(name=name, kind=kind, shape=shape, share=share)


def score(value: float) -> str:
    """Dice as the engine writes it: ".994"; "1.000" only where it is exactly one."""
    text = f"{value:.3f}"
    return ">.999" if text == "1.000" and value < 1 else text.removeprefix("0")


def difference(value: float) -> str:
    """Of two Dice: ".012"."""
    text = f"{abs(value):.3f}"
    return ("\N{MINUS SIGN}" if value < 0 and float(text) else "") + text.removeprefix("0")


def against(reference: str, dice: float) -> str:
    """What the masks of the layers were held against, and what FP32 has there."""
    words = _("Dice of FP32 against {reference}: {dice}, where the layers were looked at.")
    return words.format(reference=reference, dice=score(dice))


def percent(part: float) -> str:
    """A part of one: "2.2 %"."""
    return f"{100 * part:.1f}\N{NO-BREAK SPACE}%"


def correlation(value: float) -> str:
    """A rank correlation: ".93"."""
    return f"{value:.2f}".replace("0.", ".", 1).replace("-", "\N{MINUS SIGN}")


def at_bits(value: str, number: int) -> str:
    """What was found with so many bits: ".93 at 2 bits"."""
    return _("{value} at {bits}\N{NO-BREAK SPACE}bits").format(value=value, bits=number)


def agreement(view: str, told: str) -> str:
    """How far another view puts the layers in the same order."""
    return _("Rank agreement with {view}: {told} (1: the same order, 0: none).").format(view=view, told=told)


def safe(size: str, uneven: bool) -> str:
    """The button, while that model is chosen; `uneven`: what was not asked for is clearly worse than what was."""
    text = _("Keeps what was asked: {size}") if uneven else _("Smallest safe model: {size}")
    return text.format(size=size)


def of_model(title: str, headline: str = "") -> str:
    """What was found of another model than the chosen one."""
    return (
        _("Of {title}: {headline}").format(title=title, headline=headline)
        if headline
        else _("of {title}").format(title=title)
    )


def expected(seconds: str) -> str:
    """Seconds that were measured on this machine, but not on this scan."""
    return f"\N{ALMOST EQUAL TO} {seconds}"


def nothing_safe(tolerance: str, found: str, text: str) -> str:
    """No model that is smaller is safe."""
    return _(
        "Nothing smaller is safe: no quantized model keeps {tolerance}. The most precise that was tried, {text}:\n"
        "{found}"
    ).format(tolerance=tolerance, text=text, found=found)
