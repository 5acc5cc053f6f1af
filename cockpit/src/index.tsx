import { render } from "preact";

import { Store } from "./model/store";
import { followLanguage, followTheme } from "./theme";
import { App } from "./ui/app";
import { StoreContext } from "./ui/hooks";
import { _ } from "./text";
import "./style/index.css";

followTheme();
followLanguage();
document.title = _("Cluster locks");
const root = document.getElementById("app");
if (root)
    render(
        <StoreContext.Provider value={new Store()}>
            <App />
        </StoreContext.Provider>,
        root,
    );
