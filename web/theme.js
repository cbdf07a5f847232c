// Before the first paint, so that nobody is dazzled.
{
  const theme = localStorage.getItem("chatbe-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
