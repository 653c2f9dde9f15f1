() => {
  document.documentElement.lang = "en";
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      const button = document.getElementById("ask");
      if (button && !button.disabled) button.click();
    }
  });
  // gradio's aria-label differs from the visible text, which breaks voice control.
  const unnamed = () => document.querySelectorAll("#drop button[aria-label]").forEach((button) => {
    if (button.innerText.trim()) button.removeAttribute("aria-label");
  });
  new MutationObserver(unnamed).observe(document.body, {childList: true, subtree: true});
  unnamed();
}
