(html, number) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([html], {type: "text/html"}));
  link.download = `case-${(number ?? 0) + 1}.html`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return [];
}
