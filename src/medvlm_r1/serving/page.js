() => {
  document.documentElement.lang = "en";
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      const button = document.getElementById("ask");
      if (button && !button.disabled) button.click();
    }
  });
}
