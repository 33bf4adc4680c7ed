// A page that is opened from a disk (file://) may not import modules, so the Mermaid extension draws
// nothing there. Mermaid's classic build may be loaded, and draws the same diagrams.
const statics = new URL(".", document.currentScript.src);

if (location.protocol === "file:") {
  addEventListener("load", () => {
    if (!document.querySelector("pre.mermaid")) return;
    const script = document.createElement("script");
    script.src = new URL("mermaid/mermaid.min.js", statics);
    script.onload = () => {
      mermaid.initialize({ startOnLoad: false, theme: "neutral" });
      mermaid.run();
    };
    document.head.append(script);
  });
}
