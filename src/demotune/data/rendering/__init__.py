"""The one prompt renderer: conversation -> token ids, the same for sampling, training and scoring.

Prompt text and response text come from one template; their ids are joined, never decoded and tokenised again. So the
policy is trained on exactly the ids that it is conditioned on when it samples.
"""

from demotune.data.rendering.renderer import Renderer, content_key, prompt_hash
from demotune.data.rendering.writer import RenderError

__all__ = ["RenderError", "Renderer", "content_key", "prompt_hash"]
